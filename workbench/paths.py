"""Where everything is kept: functions over one environment variable, read at each call.

This is the only module that reads `os.environ`.
"""

from __future__ import annotations

import os
from pathlib import Path

__all__ = [
    "adapters_dir",
    "bases_dir",
    "become",
    "browser_dir",
    "bundled_datasets_dir",
    "cache_dir",
    "checks_dir",
    "child_environment",
    "database_url",
    "datasets_dir",
    "foreign_environment",
    "home",
    "hub_offline",
    "jobs_dir",
    "machine_file",
    "private_uploads",
    "no_color",
    "node_file",
    "store_file",
    "wait_policy",
    "wanted_threads",
]

_CHECKOUT = Path(__file__).resolve().parent.parent


def _in_checkout() -> bool:
    return (_CHECKOUT / "pyproject.toml").is_file() and (_CHECKOUT / "adapters").is_dir()


def home() -> Path:
    """`$WORKBENCH_HOME`, else the checkout when run from one, else the platform's user data folder."""
    given = os.environ.get("WORKBENCH_HOME")
    if given:
        return Path(given).expanduser().resolve()
    if _in_checkout():
        return _CHECKOUT
    import platformdirs

    return Path(platformdirs.user_data_dir("workbench", appauthor=False))


def database_url() -> str:
    """`$WORKBENCH_DB` (a SQLAlchemy URL), else a SQLite file in the home."""
    return os.environ.get("WORKBENCH_DB") or f"sqlite:///{home() / 'workbench.db'}"


def bases_dir() -> Path:
    """`<home>/bases`: one folder per `family/version`, each with `base.json`, `lock.json` and the weights."""
    return home() / "bases"


def datasets_dir() -> Path:
    """`<home>/datasets`: one folder per dataset, each with `data.jsonl` and `README.md`."""
    return home() / "datasets"


def bundled_datasets_dir() -> Path:
    """The example sets that ship with the code: in the wheel, else in the checkout."""
    shipped = Path(__file__).resolve().parent / "_datasets"
    return shipped if shipped.is_dir() else _CHECKOUT / "datasets"


def jobs_dir() -> Path:
    """`<home>/jobs/<id>/attempt-<n>/`."""
    return home() / "jobs"


def adapters_dir() -> Path:
    """`<home>/adapters/<name>/v<N>/`."""
    return home() / "adapters"


def checks_dir() -> Path:
    """`<home>/checks/<adapter>/v<N>/<base>/`: the newest rebase check of each adapter on each base."""
    return home() / "checks"


def cache_dir() -> Path:
    """`<home>/cache/<kind>/`: what `workbench.cache` remembers; may be deleted at any time."""
    return home() / "cache"


def machine_file() -> Path:
    """`<home>/machine.json`: the speeds measured on this machine."""
    return home() / "machine.json"


def store_file() -> Path:
    """`<home>/store-id`: which home this is, wherever it is mounted."""
    return home() / "store-id"


def node_file() -> Path:
    """Which machine this is, where the system keeps no `/etc/machine-id`; never in the home, which machines may share."""
    import platformdirs

    return platformdirs.user_state_path("workbench", appauthor=False) / "node-id"


def hub_offline() -> bool:
    """True when the user asked Hugging Face's libraries to stay offline."""
    return any(os.environ.get(name, "").lower() in {"1", "true", "yes", "on"} for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"))


def no_color() -> bool:
    """True when `$NO_COLOR` asks for output without colours (no-color.org)."""
    return bool(os.environ.get("NO_COLOR"))


def wanted_threads() -> int | None:
    """`$OMP_NUM_THREADS` when it is a positive number, else None (use every core)."""
    value = os.environ.get("OMP_NUM_THREADS", "")
    return int(value) if value.isdecimal() and int(value) > 0 else None


def wait_policy() -> str | None:
    """`$OMP_WAIT_POLICY`: what threads do while they wait for each other, if somebody has chosen."""
    return os.environ.get("OMP_WAIT_POLICY") or None


def private_uploads() -> Path:
    """`<home>/uploads`, readable by this user only."""
    return _private(home() / "uploads")


def browser_dir() -> Path:
    """`<home>/browser`, readable by this user only: the token that lets a browser in. Gradio's own files go below it."""
    folder = _private(home() / "browser")
    os.environ["GRADIO_TEMP_DIR"] = str(folder / "gradio")
    return folder


def _private(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    folder.chmod(0o700)
    return folder


def child_environment(**extra: str) -> dict[str, str]:
    """The environment for a child process: this one's, changed by `extra`."""
    return {**os.environ, **extra}


_HARMLESS = ("PATH", "HOME", "LANG", "LC_ALL", "LC_CTYPE", "TMPDIR", "TZ", "VIRTUAL_ENV", "LD_LIBRARY_PATH", "WORKBENCH_HOME")


def foreign_environment() -> dict[str, str]:
    """The environment of a process that reads strangers' files: no tokens, no database password, one thread, no network."""
    kept = {name: value for name, value in os.environ.items() if name in _HARMLESS or name.startswith("OPENBLAS_")}
    one_thread = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "RAYON_NUM_THREADS"), "1")
    quiet = {"TOKENIZERS_PARALLELISM": "false", "HF_HUB_OFFLINE": "1", "HF_HUB_DISABLE_TELEMETRY": "1"}
    return kept | one_thread | quiet | {"MALLOC_ARENA_MAX": "2", "ARROW_DEFAULT_MEMORY_POOL": "system"}


def become(environment: dict[str, str]) -> None:
    """Replace this process's environment; for a child that was forked before it was known."""
    os.environ.clear()
    os.environ.update(environment)
