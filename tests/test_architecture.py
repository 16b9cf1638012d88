"""The house's rules: who may import what, who may start a program, how large a file is.

They are read off the source, so a rule holds for code that no test runs, too.
"""

from __future__ import annotations

import ast
import functools
import inspect
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest

import jail

pytestmark = pytest.mark.beside

CHECKOUT: Final = Path(__file__).resolve().parents[1]
MAX_LINES: Final = 350
LONGER: Final = {
    "agent/wire.py": "every message there is, and the frames they come in",
    "jail/cli.py": "every option once, with its words; all else is in modules of its own",
    "jail/jail.py": "what can be done with a living jail, each in a few lines",
    "jail/plan.py": "the one place where everything is decided, read from the top",
    "jail/zygote/fsops.py": "every mount: the steps of one builder, which share its descriptors",
    "jail/process.py": "one run's life: its parts share most of its state",
}
"""files that may be longer, and why"""

WITHOUT_TRIO: Final = (
    "jail",
    "jail.errors",
    "jail.host",
    "jail.idmap",
    "jail.kernel",
    "jail.launchplan",
    "jail.plan",
    "jail.policy",
    "jail.result",
    "jail.spec",
    "jail.units",
    "jail.user",
    "jail.verdict",
    "jail.zygote",
)
PURE: Final = (
    "jail.doctor.cause",
    "jail.cgroup.account",
    "jail.cgroup.grant",
    "jail.cgroup.setting",
    "jail.errors",
    "jail.idmap",
    "jail.landlock",
    "jail.launchplan",
    "jail.limit",
    "jail.mechanism",
    "jail.network.check",
    "jail.network.decide",
    "jail.network.hosts",
    "jail.network.nameserver",
    "jail.network.publish",
    "jail.network.rule",
    "jail.network.show",
    "jail.network.special",
    "jail.network.use",
    "jail.plan",
    "jail.policy.action",
    "jail.policy.condition",
    "jail.policy.agent",
    "jail.policy.document",
    "jail.policy.gap",
    "jail.policy.rule",
    "jail.policy.shadow",
    "jail.refused",
    "jail.result",
    "jail.spec",
    "jail.stats.sample",
    "jail.units",
    "jail.usage",
    "jail.user",
    "jail.verdict",
)
"""facts in, decisions out"""
PURE_OF_OS: Final = {"PathLike", "fsdecode", "fsencode", "fspath", "strerror"}
LOOKING: Final = {"socket", "subprocess", "pathlib", "time", "glob", "fcntl", "select", "tempfile"}

CTYPES: Final = ("jail.kernel", "jail.policy.libseccomp", "jail.agent.kernel", "jail.trial.probe")
STARTS_PROGRAMS: Final = {
    "jail.launcher": "the zygote",
    "jail.mapping": "newuidmap and newgidmap",
    "jail.subid": "getsubids",
    "jail.network.helper_program": "pasta and slirp4netns",
    "jail.doctor.probe": "the process that probes",
    "jail.doctor.attempt.program": "helpers, to see whether they work",
    "jail.agent.child": "the program itself, inside",
}
FORKS: Final = {
    "jail.kernel.process": "the clone",
    "jail.agent.kernel": "a program with limits or a filter of its own",
    "jail.doctor.child": "one process per attempt",
    "jail.doctor.attempt.feature": "what can be tried once in a process",
    "jail.doctor.attempt.mount": "a pid namespace's first process",
    "jail.doctor.attempt.network": "to whom a network is given",
    "jail.doctor.attempt.program": "whom newuidmap maps",
    "jail.trial.probe": "one process per system call that is tried, inside a jail",
}
STARTERS: Final = {"posix_spawn", "posix_spawnp", "system", "popen", "startfile"}
EXECUTERS: Final = {f"exec{kind}" for kind in ("l", "le", "lp", "lpe", "v", "ve", "vp", "vpe")}
SPAWNERS: Final = {f"spawn{kind}" for kind in ("l", "le", "lp", "lpe", "v", "ve", "vp", "vpe")}
CLOCKS: Final = {"time", "datetime", "sched", "timeit"}
CONFIGURATION: Final = {"configparser", "json", "tomllib", "argparse", "getpass", "locale"}
ENVIRONMENT: Final = {"environ", "environb", "getenv", "getenvb"}


IMPORT_ALONE: Final = """
import importlib, os, sys
sys.path.insert(0, sys.argv[1])
for name in sys.argv[2:]:
    pid = os.fork()
    if pid == 0:
        importlib.import_module(name)
        os.write(1, b"alone\\n")
        os._exit(0)
    os.waitpid(pid, 0)
"""


class Module:
    """A source file under the name it is imported by; ``jail.agent`` is the folder ``agent``."""

    def __init__(self, path: Path) -> None:
        self.path = path.relative_to(CHECKOUT)
        parts = self.path.with_suffix("").parts
        self.is_package = parts[-1] == "__init__"
        parts = parts[:-1] if self.is_package else parts
        self.name = ".".join(("jail", *parts) if parts[0] == "agent" else parts)
        self.text = path.read_text()
        self.tree = ast.parse(self.text)

    def imports(self, *, lazy: bool) -> set[str]:
        """Modules (or names in them) that are imported; with ``lazy`` those in functions too."""
        tree: Any = self.tree if lazy else _Eager(self.tree)
        return {name for node in _walk(tree) for name in self._names_of(node)}

    def _names_of(self, node: ast.AST) -> Iterator[str]:
        if isinstance(node, ast.Import):
            yield from (each.name for each in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                package = self.name.split(".")
                up = node.level - (1 if self.is_package else 0)
                parts = package[: len(package) - up]
                base = ".".join((*parts, base) if base else parts)
            yield base
            yield from (f"{base}.{each.name}" for each in node.names)

    def attributes(self, owner: str) -> set[str]:
        """Names used as ``owner.NAME``, or imported from it."""
        used = {
            node.attr
            for node in ast.walk(self.tree)
            if isinstance(node, ast.Attribute)
            and isinstance(node.value, ast.Name)
            and node.value.id == owner
        }
        names = self.imports(lazy=True)
        return used | {n.removeprefix(f"{owner}.") for n in names if n.startswith(f"{owner}.")}


class _Eager:
    """What runs when a module is imported: no function bodies, no TYPE_CHECKING."""

    def __init__(self, tree: ast.AST) -> None:
        self.tree = tree


def _walk(tree: ast.AST | _Eager) -> Iterator[ast.AST]:
    if isinstance(tree, ast.AST):
        yield from ast.walk(tree)
        return
    waiting = [tree.tree]
    while waiting:
        node = waiting.pop()
        yield node
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
                continue
            if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.dump(child.test):
                waiting += child.orelse
            else:
                waiting.append(child)


@functools.cache
def read_house() -> dict[str, Module]:
    """Every module of the distribution, by name."""
    files = [*(CHECKOUT / "agent").rglob("*.py"), *(CHECKOUT / "jail").rglob("*.py")]
    links = [CHECKOUT / "jail" / "agent", CHECKOUT / "jail" / "policies"]
    modules = [Module(p) for p in files if not any(link in p.parents for link in links)]
    return {each.name: each for each in modules}


def below(package: str) -> list[Module]:
    """The module and everything in it; ``jail`` alone is its ``__init__``."""
    house = read_house()
    if package == "jail":
        return [house["jail"]]
    return [each for name, each in house.items() if f"{name}.".startswith(f"{package}.")]


def reach(module: Module, *, lazy: bool = False) -> set[str]:
    """All that is imported with it (or ever by it), ours and others', packages around it too."""
    house, found, waiting = read_house(), set[str](), [module]
    while waiting:
        for name in waiting.pop().imports(lazy=lazy):
            parts = name.split(".")
            for size in range(1, len(parts) + 1):
                each = ".".join(parts[:size])
                if each not in found:
                    found.add(each)
                    waiting += [house[each]] if each in house else []
    return found


def is_foreign(name: str) -> bool:
    """Neither ours nor the standard library's."""
    top = name.split(".")[0]
    return top != "jail" and top not in sys.stdlib_module_names


def test_the_whole_house_is_read() -> None:
    house = read_house()
    for name in ("jail", "jail.supervisor", "jail.zygote.init", "jail.agent.wire", "jail.kernel"):
        assert name in house
    for name in (*WITHOUT_TRIO, *PURE, *CTYPES):
        assert below(name), f"{name}: a rule for nobody"


@pytest.mark.parametrize("name", ["agent", "policies"])
def test_the_parts_on_the_other_side_are_links_in_the_checkout(name: str) -> None:
    assert (CHECKOUT / "jail" / name).readlink() == Path("..") / name


def test_the_agent_imports_itself_the_standard_library_and_msgpack() -> None:
    for module in below("jail.agent"):
        for node in ast.walk(module.tree):
            if isinstance(node, ast.Import):
                names = [each.name for each in node.names]
            elif isinstance(node, ast.ImportFrom):
                assert node.level <= 1, f"{module.path}: out of its folder"
                names = [node.module or ""] if node.level == 0 else []
            else:
                continue
            for name in names:
                top = name.split(".")[0]
                assert top in sys.stdlib_module_names | {"msgpack"}, f"{module.path}: {name}"


def test_the_zygote_imports_plan_types_kernel_and_agent() -> None:
    allowed = ("jail.launchplan", "jail.kernel", "jail.agent", "jail.zygote")
    for module in below("jail.zygote"):
        for name in module.imports(lazy=True):
            if name.split(".")[0] == "jail" and name != "jail":
                assert f"{name}.".startswith(tuple(f"{each}." for each in allowed)) or any(
                    name.startswith(f"{each}.") for each in allowed
                ), f"{module.path}: {name}"
            elif is_foreign(name):
                assert name.split(".")[0] == "msgpack", f"{module.path}: {name}"


def test_what_the_zygote_reaches_is_small() -> None:
    ours = {n for m in below("jail.zygote") for n in reach(m) if n in read_house()}
    allowed = ("jail.launchplan", "jail.kernel", "jail.agent", "jail.zygote")
    assert {n for n in ours if not n.startswith(allowed)} == {"jail"}


def test_plan_types_and_kernel_import_nothing_above_them() -> None:
    for package in ("jail.launchplan", "jail.kernel"):
        for module in below(package):
            for name in module.imports(lazy=True):
                if name.startswith("jail.") and name in read_house():
                    assert name.startswith(("jail.kernel", "jail.agent")), f"{module.path}: {name}"


@pytest.mark.parametrize("package", WITHOUT_TRIO)
def test_no_trio_below_the_supervisor(package: str) -> None:
    for module in below(package):
        assert "trio" not in module.imports(lazy=True), module.path
        assert "trio" not in reach(module), f"{module.path}: by what it imports"


def test_importing_the_package_and_the_zygote_loads_no_trio() -> None:
    """And little else: what the zygote has loaded, every jail's init pays for."""
    script = (
        "import sys; sys.path.insert(0, sys.argv[1]); import jail, jail.zygote.server;"
        "print(*[n for n in sys.modules if n.split('.')[0] in sys.argv[2:]])"
    )
    unwanted = ("trio", "subprocess", "asyncio", "threading", "logging", "json", "pathlib")
    argv = [sys.executable, "-c", script, str(CHECKOUT), *unwanted]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=30, check=True, cwd="/")
    without = subprocess.run(
        [sys.executable, "-c", script.replace("import jail, jail.zygote.server;", ""), *argv[3:]],
        capture_output=True,
        text=True,
        timeout=30,
        check=True,
        cwd="/",
    )
    assert set(done.stdout.split()) - set(without.stdout.split()) == set()


@pytest.mark.parametrize("package", PURE)
def test_what_decides_looks_at_nothing(package: str) -> None:
    for module in below(package):
        assert_pure(module)


def test_what_calls_itself_pure_is_pure() -> None:
    modules = [m for m in read_house().values() if "Pure" in (ast.get_docstring(m.tree) or "")]
    assert len(modules) > 3
    for module in modules:
        assert_pure(module)


def assert_pure(module: Module) -> None:
    """Nothing is opened, started, asked or printed."""
    assert module.attributes("os") <= PURE_OF_OS, module.path
    assert not module.imports(lazy=True) & LOOKING, module.path
    calls = [node.func for node in ast.walk(module.tree) if isinstance(node, ast.Call)]
    names = {call.id for call in calls if isinstance(call, ast.Name)}
    assert not names & {"open", "input", "print"}, module.path


def test_jails_are_opened_without_the_doctor_and_the_command() -> None:
    reached = reach(read_house()["jail.supervisor"], lazy=True)
    assert {"jail.session", "jail.policy.libseccomp"} <= reached
    assert not [n for n in reached if n.startswith(("jail.doctor", "jail.cli", "argparse"))]


def test_ctypes_is_where_the_kernel_is_spoken_to() -> None:
    users = {n for n, m in read_house().items() if "ctypes" in m.imports(lazy=True)}
    strangers = {n for n in users if not f"{n}.".startswith(tuple(f"{c}." for c in CTYPES))}
    assert strangers == set()
    assert "jail.kernel.process" in users


def test_the_bus_is_spoken_to_by_one_module_that_loads_its_library_when_it_does() -> None:
    def names_it(module: Module, *, lazy: bool) -> bool:
        return any(name.split(".")[0] == "jeepney" for name in module.imports(lazy=lazy))

    house = read_house()
    assert {name for name, each in house.items() if names_it(each, lazy=True)} == {
        "jail.cgroup.bus"
    }
    assert not names_it(house["jail.cgroup.bus"], lazy=False)


def test_programs_are_started_by_those_who_own_them() -> None:
    starters = {name for name, module in read_house().items() if starts_programs(module)}
    assert starters == set(STARTS_PROGRAMS)


def starts_programs(module: Module) -> bool:
    """By whatever way Python has."""
    imported = {name.split(".")[0] for name in module.imports(lazy=True)}
    by_trio = module.attributes("trio") & {"run_process"}
    by_trio |= module.attributes("lowlevel") & {"open_process"}
    by_os = module.attributes("os") & (STARTERS | EXECUTERS | SPAWNERS)
    return bool(imported & {"subprocess", "multiprocessing", "pty", "asyncio"} or by_trio or by_os)


def test_only_those_who_must_fork() -> None:
    forkers = {n for n, m in read_house().items() if m.attributes("os") & {"fork", "forkpty"}}
    assert forkers | {"jail.kernel.process", "jail.agent.kernel"} == set(FORKS)


def test_no_shell_anywhere() -> None:
    for module in read_house().values():
        for node in ast.walk(module.tree):
            if isinstance(node, ast.keyword) and node.arg == "shell":
                assert isinstance(node.value, ast.Constant), module.path
                assert node.value.value is False, module.path


@pytest.mark.parametrize("package", ["jail.zygote", "jail.agent", "jail.kernel", "jail.launchplan"])
def test_nothing_behind_the_fork_reads_the_environment_configuration_or_a_clock(
    package: str,
) -> None:
    for module in below(package):
        imported = {name.split(".")[0] for name in module.imports(lazy=True)}
        assert not imported & (CLOCKS | CONFIGURATION), module.path
        assert not module.attributes("os") & ENVIRONMENT, module.path


@pytest.mark.parametrize("package", ["jail.zygote", "jail.agent", "jail.kernel", "jail.launchplan"])
def test_nothing_behind_the_fork_imports_when_it_runs(package: str) -> None:
    """After the pivot an import would look into a stranger's tree."""
    for module in below(package):
        assert module.imports(lazy=True) == module.imports(lazy=False), module.path


def test_files_are_short_or_have_a_reason() -> None:
    paths = {str(module.path): module for module in read_house().values()}
    assert set(LONGER) <= set(paths), "an excuse for nobody"
    longer = {path for path, module in paths.items() if module.text.count("\n") > MAX_LINES}
    assert longer <= set(LONGER)


def test_files_have_names_that_say_something() -> None:
    for module in read_house().values():
        assert module.path.stem not in ("utils", "util", "helpers", "helper", "manager", "common")


def test_every_module_and_class_says_what_it_is() -> None:
    for module in read_house().values():
        assert ast.get_docstring(module.tree), module.path
        for node in ast.walk(module.tree):
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                assert ast.get_docstring(node), f"{module.path}: {node.name}"


def test_public_names_are_sorted_and_there() -> None:
    assert sorted(jail.__all__, key=lambda n: (not n.isupper(), n.islower(), n)) == jail.__all__
    for name in jail.__all__:
        assert getattr(jail, name) is not None


def test_a_name_that_isn_t_public_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        _ = jail.nonsense


@pytest.mark.parametrize("name", jail.__all__)
def test_public_names_are_documented(name: str) -> None:
    value = getattr(jail, name)
    if not inspect.isclass(value) and not callable(value):
        assert type(value).__doc__
        return
    assert value.__doc__, name
    for member, part in vars(value).items() if inspect.isclass(value) else ():
        if member.startswith("_") or not (inspect.isroutine(part) or isinstance(part, property)):
            continue
        assert inspect.getdoc(getattr(value, member)), f"{name}.{member}"


def test_every_module_can_be_imported_alone() -> None:
    """No module needs another one to have been imported before it: there are no cycles."""
    names = [name for name in read_house() if not name.endswith("__main__")]
    argv = [sys.executable, "-c", IMPORT_ALONE, str(CHECKOUT), *names]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=55, check=True, cwd="/")
    assert done.stdout.split() == ["alone"] * len(names), done.stderr
