"""Which configuration of a plan is trained, and whether its network can be built and take its patch."""

from mambino.core.plan import Config, Plan
from mambino.errors import Error, OptionError
from mambino.models import divisor


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


def check_network(config: Config, name: str, plan: str) -> None:
    """Refuse a network that cannot be built, or that cannot take the patch of its configuration.

    Args:
        config: from a plan that somebody may have edited.
        name: of the configuration.
        plan: where the plan lies, for the message.

    Raises:
        OptionError: names the plan, the configuration and what is wrong in it.
    """
    again = f"correct {plan}, or remove it and plan again"
    spec = config.network
    try:
        sides = divisor(spec)
    except Error as error:
        hint = f"{error.hint}; {again}" if error.hint else again
        raise OptionError(f"{plan}, configuration {name}: {error}", hint) from None
    if any(size % side for size, side in zip(config.patch, sides, strict=True)):
        fits = tuple(max(1, round(size / side)) * side for size, side in zip(config.patch, sides, strict=True))
        raise OptionError(
            f"{plan}, configuration {name}: the sides of the patch {config.patch} must be multiples of {sides}, "
            f"as its network {spec.name} needs",
            f"make it {fits}; {again}",
        )


def _known(plan: Plan, name: str) -> str:
    plan.config(name)
    return name
