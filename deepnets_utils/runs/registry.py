"""Names for models and tasks: a notebook says a name and options, a Run keeps them as a value."""

import functools
import hashlib
import inspect
import linecache
import types
from collections.abc import Callable
from typing import Any

from deepnets_utils.runs.run import Allowed, Spec, allowed, coerce


class Registry:
    """Factories of one kind by name, with keyword options that have defaults and annotations that `allowed` reads.

    `kind` is the word that error messages use, `try_out` builds one object without side effects, so that
    impossible options fail when a Spec is made and not when training starts.
    """

    def __init__(self, kind: str, try_out: Callable[[Callable[[], Any]], Any] = lambda build: build()) -> None:
        self.kind = kind
        self._factories: dict[str, Callable[..., Any]] = {}
        self._versions: dict[str, int | str] = {}
        self._try_out = try_out
        self._checked: set[Spec] = set()

    def register(self, version: int | None = None, name: str | None = None) -> Callable[[Callable], Callable]:
        """Return a decorator that registers a factory under its name (or `name`).

        `version` is raised by hand when the factory's numbers change. Without one the version is a hash of the
        source of the whole cell (outside a notebook: file), so that an edited cell is another model. Raises
        ValueError when a name of the package is taken, or where there is no source.
        """

        if callable(version):
            raise ValueError(f"write @register_{self.kind}() with brackets")

        def decorate(factory: Callable) -> Callable:
            key = name or factory.__name__
            _options(factory)
            # Not the factory's own source: what it calls stands in the same cell, and Python finds no source of
            # a class that a notebook defines.
            tag = _source_tag(inspect.currentframe().f_back) if version is None else version
            if isinstance(self._versions.get(key), int):
                raise ValueError(f"the {self.kind} name {key!r} is taken by the package; choose another")
            self._factories[key], self._versions[key] = factory, tag
            return factory

        return decorate

    def names(self) -> list[str]:
        """Return the registered names in alphabetical order."""
        return sorted(self._factories)

    def spec(self, name: str, **options: Any) -> Spec:
        """Return `name` with its options as a value; options equal to their defaults are left out.

        Raises ValueError for an unknown name, an unknown option, a wrong type or an impossible value, and
        lists what is allowed.
        """
        factory = self._factory(name)
        kept = {key: value for key, value in self._coerced(name, options).items() if value != _options(factory)[key][1]}
        spec = Spec(name, self._versions[name], tuple(sorted(kept.items())))
        if spec not in self._checked:
            try:
                self._try_out(functools.partial(factory, **kept))
            except (ValueError, TypeError, RuntimeError) as error:
                raise ValueError(f"{self.kind} {name!r} cannot be made with {kept}: {error}") from error
            self._checked.add(spec)
        return spec

    def build(self, spec: Spec) -> Any:
        """Return the object that `spec` names; ValueError for a version that is not the present one or a bad option."""
        factory = self._factory(spec.name)
        if spec.version != self._versions[spec.name]:
            here = f"{self.kind} {spec.name!r} is at version {self._versions[spec.name]} here"
            raise ValueError(f"{here}, the run was made for version {spec.version}: plan it again with this package")
        return factory(**self._coerced(spec.name, dict(spec.options)))

    def _coerced(self, name: str, options: dict[str, Any]) -> dict[str, Any]:
        known, coerced = _options(self._factory(name)), {}
        for key, value in options.items():
            if key not in known:
                names = ", ".join(known) or "none"
                raise ValueError(f"{self.kind} {name!r} has no option {key!r}; its options are: {names}")
            coerced[key] = coerce(value, known[key][0], f"option {key!r} of {self.kind} {name!r}")
        return coerced

    def _factory(self, name: str) -> Callable[..., Any]:
        if name not in self._factories:
            raise ValueError(f"no {self.kind} is called {name!r}; there are: {', '.join(self.names())}")
        return self._factories[name]


def _source_tag(caller: types.FrameType) -> str:
    file = caller.f_code.co_filename
    linecache.checkcache(file)
    source = "".join(linecache.getlines(file, caller.f_globals))
    if not source:
        raise ValueError(f"there is no source of {file}: define it in a notebook's cell or a file")
    return "source-" + hashlib.sha256(source.encode()).hexdigest()[:12]


@functools.cache
def _options(factory: Callable) -> dict[str, tuple[Allowed, Any]]:
    what, options = factory.__name__, {}
    for key, parameter in inspect.signature(factory, eval_str=True).parameters.items():
        if parameter.kind is not inspect.Parameter.KEYWORD_ONLY:
            raise ValueError(f"{what}: its options stand behind a *, as in def f(*, {key}: int = 1); {key!r} does not")
        if inspect.Parameter.empty in (parameter.annotation, parameter.default):
            raise ValueError(f"{what}: option {key!r} needs a type and a default, as in {key}: int = 1")
        options[key] = allowed(parameter.annotation), parameter.default
    return options
