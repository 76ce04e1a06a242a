# Installs a wheel into an empty environment, away from its sources: bare, and then with the README's extras, where it
# runs the README's commands with smaller numbers.
# bash tools/try_wheel.sh PYTHON WHEEL     (make test-release)
# bash tools/try_wheel.sh --list           prints these commands
set -euo pipefail
root=$(realpath "$(dirname "$0")/..")

# Left out: what wants an endpoint to be there.
mapfile -t commands < <(sed -n '/^```sh$/,/^```$/{/^scorl /p}' "$root/README.md" | sed -E '
    s/ +#.*//
    / openai:/d
    s/^scorl train [a-z]+/& stages.0.steps=2 stages.1.steps=2 evaluation.problems=20/
    s/--limit [0-9]+/--limit 10/
    s/--budget [0-9]+/--budget 4/')
if [ "$1" = --list ]; then
    printf '%s\n' "${commands[@]}"
    exit
fi

python=$1 wheel=$(realpath "$2")
[[ $python != */* ]] || python=$(realpath -s "$python") # a link is kept: it may be an environment's Python
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
cd "$place"
"$python" -m venv env
grep -ohE '^[A-Za-z0-9._-]+==[^ ;]+' "$root/locks/requirements.txt" > constraints.txt
export PATH="$place/env/bin:$PATH" OMP_NUM_THREADS=1
pip install -q -c constraints.txt "$wheel"
set -x
scorl --version
scorl --help
scorl train countdown --dry-run
pip install -q -c constraints.txt "$wheel[math,lora]"
for command in "${commands[@]}"; do
    eval "$command"
done
