"""Which configuration of which plan is trained."""

from pathlib import Path

from mambino.core.plan import Plan
from mambino.core.records import read
from mambino.errors import DataError, OptionError


def read_plan(work: Path) -> Plan:
    """Read the plan of a work folder.

    Raises:
        DataError: there is none.
        FileFormatError: it is not a valid plan.
    """
    path = work / "plan.json"
    if not path.is_file():
        raise DataError(f"{work} holds no plan.json", hint=f"make one: mambino plan DATA -o {work}")
    return read(Plan, path)


def choose_config(plan: Plan, name: str | None, model: str | None) -> str:
    """Return the full name of a configuration of the plan.

    Args:
        plan: names its configurations by dimension and network, "3d-unet".
        name: a full name, or a dimension, "3d"; the plan's default if None.
        model: a network; the only one, or that of the default, if None.

    Raises:
        OptionError: the plan has no such configuration, or several.
    """
    if name is None and model is None:
        return plan.default
    if name in plan.configs and model in {None, plan.configs[name].network.name}:
        return name
    dim = name or plan.default.partition("-")[0]
    if model is not None:
        return _known(plan, f"{dim}-{model}" if "-" not in dim else f"{dim} with the network {model}")
    several = [known for known in plan.configs if known.startswith(f"{dim}-")]
    if plan.default in several:
        return plan.default
    if len(several) > 1:
        raise OptionError(f"the plan has {len(several)} configurations {dim}", hint=f"choose from {', '.join(several)}")
    return _known(plan, several[0] if several else dim)


def _known(plan: Plan, name: str) -> str:
    plan.config(name)
    return name
