"""The upload to the Hugging Face hub, by huggingface_hub."""

from __future__ import annotations

from huggingface_hub import CommitOperationAdd, HfApi
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalTokenNotFoundError
from huggingface_hub.utils._validators import validate_repo_id

from scorl.errors import UserError
from scorl.hub.folder import Files
from scorl.model.hub import hub_is_reachable

__all__ = ["check_repo_id", "upload"]

LOGIN = "`hf auth login`, or a token that may write in HF_TOKEN, is needed"
INSTEAD = "--dry-run DIR writes all that would be uploaded to a folder"


def check_repo_id(repo_id: str) -> None:
    """Whether something on the hub can be called so.

    Raises:
        UserError: it cannot.
    """
    try:
        validate_repo_id(repo_id)
    except HFValidationError as error:
        raise UserError(f"{repo_id}: {' '.join(str(error).split())} OWNER/NAME would be right") from None


def upload(files: Files, repo_id: str, *, private: bool = False, revision: str | None = None) -> str:
    """Make the repository where it is not there, and commit all files at once; where it can be seen.

    Raises:
        UserError: the hub cannot be reached, or refuses.
    """
    if not hub_is_reachable():
        raise UserError(f"the hub cannot be reached. {INSTEAD}")
    hub = HfApi()
    try:
        hub.create_repo(repo_id, private=private, exist_ok=True)
        if revision:
            hub.create_branch(repo_id, branch=revision, exist_ok=True)
        commit = hub.create_commit(
            repo_id,
            [CommitOperationAdd(name, content) for name, content in files.items()],
            commit_message="Upload by scorl push",
            revision=revision,
        )
    except LocalTokenNotFoundError as error:
        raise UserError(f"the hub wants to know who uploads: {LOGIN}") from error
    except HfHubHTTPError as error:
        status = error.response.status_code if error.response is not None else None
        hint = f": {LOGIN}" if status in (401, 403) else ""
        raise UserError(f"the hub refuses {repo_id}: {str(error).splitlines()[0]}{hint}") from error
    except Exception as error:
        # Of the client below huggingface_hub, which has changed from one version to the next
        if not isinstance(error, OSError) and not type(error).__module__.startswith(("httpx", "requests")):
            raise
        raise UserError(f"the hub cannot be reached: {str(error).rstrip('.')}. {INSTEAD}") from error
    return str(commit.repo_url)
