"""Third-party code that is part of a plan: imported from exactly the bytes that the plan's digest covers.

A bundle's modules live in a package of their own (`wardround_bundle_...`), so that they shadow nothing and two
bundles may both have a `task.py`. Inside it `import model` finds the bundle's `model.py` before anything
installed; elsewhere it does not.
"""

import builtins
import hashlib
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib import import_module
from importlib.abc import SourceLoader
from importlib.machinery import ModuleSpec
from importlib.util import spec_from_loader
from pathlib import Path
from types import ModuleType
from typing import Any

from wardround.decoding import PlanError
from wardround.errors import LocalError, WardroundError
from wardround.plan import Plan
from wardround.registry import load, nearest
from wardround.task import GROUP, Task

__all__ = ["foreign_code", "load_from_bundle", "load_task", "read_bundle"]

_TASK_MEMBERS = ("tally_spec", "model", "loss", "tally", "predict", "output_names")


def load_task(plan: Plan) -> Task:
    """The plan's task: a registered one by name, or `task.entry` of the code bundle.

    Raises PlanError or LocalError when it cannot be found, is not a task, or its code is not what was digested.
    """
    section = plan.task
    if section.flower_app is not None:
        raise PlanError("task.name", "a task, since `flower_app` is none: FlowerTrainer trains it")
    key, name = ("task.entry", section.entry) if section.entry is not None else ("task.name", section.name)
    factory = load(GROUP, section.name) if section.entry is None else load_from_bundle(plan, key)
    with foreign_code(f"plan.{key}: {name}(plan)"):
        task: Task = factory(plan)
        missing = [member for member in _TASK_MEMBERS if not hasattr(task, member)]
    if missing:
        raise PlanError(key, f"a Task, but {name} has no {missing[0]!r}")
    return task


@contextmanager
def foreign_code(what: str) -> Iterator[None]:
    """Turns whatever a user's code raises into a LocalError of one line: what failed, why, and where in a bundle."""
    try:
        yield
    except WardroundError:
        raise
    except Exception as error:  # foreign code may raise anything
        raise LocalError(f"{what} failed: {_in_one_line(error)}") from error


def load_from_bundle(plan: Plan, key: str) -> Any:
    """What `key` (e.g. `task.entry`), of the form `module:attribute`, names in the plan's code bundle.

    Every file is read once, compared with the digest in `plan.code_files`, and imported from those bytes.
    Raises PlanError for a missing module or attribute, LocalError for a changed file or a failing import.
    """
    target: str = getattr(plan.task, key.removeprefix("task."))
    if plan.task.code is None:
        raise PlanError("task.code", f"the folder that holds {target!r}")
    module_name, colon, attribute = target.partition(":")
    if not colon or not all(part.isidentifier() for part in (*module_name.split("."), *attribute.split("."))):
        raise PlanError(key, "module:attribute", target)
    bundle = _open(plan)
    if module_name not in bundle.modules:
        raise PlanError(key, f"a module of {bundle.root}{nearest(module_name, bundle.modules)}", module_name)
    with foreign_code(f"plan.{key}: importing {module_name!r}"):
        found: Any = import_module(f"{bundle.package}.{module_name}")
    for part in attribute.split("."):
        if not hasattr(found, part):
            raise PlanError(key, f"an attribute of {module_name!r}{nearest(part, _public(found))}", attribute)
        found = getattr(found, part)
    return found


def _public(thing: object) -> list[str]:
    return [name for name in vars(thing) if not name.startswith("_")] if hasattr(thing, "__dict__") else []


def _in_one_line(error: Exception) -> str:
    place = ""
    trace = error.__traceback__
    while trace is not None:  # the innermost line of foreign code
        if str(trace.tb_frame.f_globals.get("__name__", "")).startswith(_PREFIX):
            place = f" ({Path(trace.tb_frame.f_code.co_filename).name}, line {trace.tb_lineno})"
        trace = trace.tb_next
    return f"{type(error).__name__}: {' '.join(str(error).split())}{place}"


_PREFIX = "wardround_bundle_"


def _open(plan: Plan) -> "_Bundle":
    """The bundle, its bytes checked now; the one that is already imported when it has the same bytes."""
    root, files = (plan.folder / str(plan.task.code)).resolve(), read_bundle(plan)
    package = _PREFIX + hashlib.sha256(repr((str(root), plan.code_files)).encode()).hexdigest()[:16]
    for finder in sys.meta_path:
        if isinstance(finder, _Bundle) and finder.package == package:
            return finder
    bundle = _Bundle(package, root, files)
    sys.meta_path.append(bundle)
    return bundle


def read_bundle(plan: Plan) -> dict[str, bytes]:
    """Every file of the plan's code bundle, by its path. Raises LocalError when one is not what the plan digested."""
    root = (plan.folder / str(plan.task.code)).resolve()
    return {path: _checked(root, path, expected) for path, expected in plan.code_files}


def _checked(root: Path, path: str, expected: str) -> bytes:
    try:
        data = (root / path).read_bytes()
    except OSError as error:
        raise LocalError(
            f"code bundle: expected {path} in {root}, as the plan's digest says ({error.strerror})"
        ) from None
    if (got := hashlib.sha256(data).hexdigest()) != expected:
        raise LocalError(
            f"code bundle: {root / path} changed since the plan was loaded: expected SHA-256 {expected[:12]}..., "
            f"got {got[:12]}...; load the plan again and have its new digest approved"
        )
    return data


class _Bundle(SourceLoader):
    """Finds and loads the modules of one bundle, from memory. A folder without `__init__.py` is a package too."""

    def __init__(self, package: str, root: Path, files: Mapping[str, bytes]) -> None:
        self.package, self.root = package, root
        self._files = files
        self.modules = _modules(files)

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname != self.package and not fullname.startswith(self.package + "."):
            return None
        name = fullname[len(self.package) + 1 :]
        if name not in self.modules:
            return None
        file = self.root / self.modules[name]
        spec = spec_from_loader(fullname, self, origin=str(file), is_package=file.name == "__init__.py")
        if spec is not None:
            spec.has_location = True
        return spec

    def get_filename(self, fullname: str) -> str:
        return str(self.root / self.modules[fullname[len(self.package) + 1 :]])

    def get_data(self, path: str | bytes) -> bytes:
        name = Path(str(path)).relative_to(self.root).as_posix()
        if name not in self._files and not name.endswith("__init__.py"):
            raise OSError(f"no file {name} in the code bundle")
        return self._files.get(name, b"")

    def exec_module(self, module: ModuleType) -> None:
        # functions of the module find __import__ here, also when they import at call time
        module.__dict__["__builtins__"] = {**vars(builtins), "__import__": self._import}
        super().exec_module(module)

    def _import(
        self,
        name: str,
        globals: Mapping[str, object] | None = None,
        locals: Mapping[str, object] | None = None,
        fromlist: Sequence[str] = (),
        level: int = 0,
    ) -> ModuleType:
        if level or name.partition(".")[0] not in self.modules:
            return __import__(name, globals, locals, fromlist, level)
        leaf = import_module(f"{self.package}.{name}")
        if not fromlist:
            return sys.modules[f"{self.package}.{name.partition('.')[0]}"]
        return __import__(leaf.__name__, globals, locals, fromlist, 0)


def _modules(files: Mapping[str, bytes]) -> dict[str, str]:
    """Module name to file, for every module and package of the bundle; the bundle itself is the module ''."""
    found = {"": "__init__.py"}
    for path in sorted(files):
        *folders, file = path.removesuffix(".py").split("/")
        if not path.endswith(".py") or not all(part.isidentifier() for part in (*folders, file)):
            continue
        for depth in range(1, len(folders) + 1):
            found.setdefault(".".join(folders[:depth]), "/".join((*folders[:depth], "__init__.py")))
        if file != "__init__":
            found[".".join((*folders, file))] = path
    return found
