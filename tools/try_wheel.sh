# Installs a wheel into an empty environment, away from its sources, and runs the README's commands with smaller numbers.
# bash tools/try_wheel.sh PYTHON WHEEL     (make test-release)
set -euo pipefail
python=$1 wheel=$(realpath "$2") locks=$(realpath locks)
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
cd "$place"
"$python" -m venv env
grep -ohE '^[A-Za-z0-9._-]+==[^ ;]+' "$locks/requirements.txt" > constraints.txt
env/bin/pip install -q -c constraints.txt "$wheel[math,lora]"
export PATH="$place/env/bin:$PATH" OMP_NUM_THREADS=1
set -x
scorl --version
scorl train countdown stages.0.steps=2 stages.1.steps=2 evaluation.problems=20 --out runs/mine
scorl show runs/mine --limit 3
scorl solve runs/mine "Reach 36 with the numbers 12 11 7 4."
scorl evaluate runs/mine --limit 20
scorl report runs/mine
scorl evaluate scorl:countdown-base --task countdown --limit 10 --max-tokens 80 --wordings all
scorl scale runs/mine --budget 4 --limit 10 --out scaled
