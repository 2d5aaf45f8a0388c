"""Which calls of jobmill's code have an effect outside of the process's memory.

The default is yes: whatever is not known to be pure counts as an effect, so that a new step is one without anybody
thinking of it. Pure are the lists of `tests.chaos.pure`, and functions of jobmill that call nothing but pure ones
(found by reading them). A method of an object of unknown class goes by its name: pure when it is one of texts and
containers, or when every method of that name in jobmill is pure. Reads count as effects: what was read may be old
when a process goes on.
"""

from __future__ import annotations

import ast
import builtins
import threading
from collections import Counter, defaultdict
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from tests.chaos.pure import IMPURE_BUILTINS, PURE, PURE_METHODS, PURE_MODULES, PURE_VARIABLES


@dataclass(frozen=True)
class Place:
    """Where a call stands."""

    module: str  # dotted, without the package's name: systems.runner
    function: str  # qualified name
    call: ast.Call = field(compare=False)
    classes: tuple[str, ...]  # enclosing classes, inmost last
    shadowed: frozenset[str]  # names that are variables here
    in_text: bool  # inside of an f-string, where no column is right before Python 3.12

    @property
    def callee(self) -> str:
        """Return the callee as written, without arguments."""
        return dotted(self.call.func)


@dataclass(frozen=True)
class Source:
    """One module of the package, read."""

    name: str  # dotted, without the package's name: systems.runner
    path: Path
    text: str
    tree: ast.Module
    names: Mapping[str, str]  # what a name stands for: os, jobmill.ledger.poll, jobmill.errors.Evicted


class Effects:
    """The package, read; answers whether a call has an effect."""

    def __init__(self, package: Path) -> None:
        self.sources = {source.name: source for source in (_read(package, p) for p in sorted(package.rglob("*.py")))}
        self._bodies: dict[str, list[Place]] = {}  # jobmill.<module>.<function> -> its calls
        self._texts: list[tuple[Source, str, ast.AST]] = []  # every function
        self._methods: dict[str, set[str]] = defaultdict(set)  # name of a method -> full names
        self._bases: dict[str, list[str]] = {}  # full name of a class -> those of its bases
        for source in self.sources.values():
            self._collect(source)
        self._mentioned = {full: self._mentions(source, full, node) for source, full, node in self._texts}
        self.effectful: set[str] = set()
        while more := {n for n, calls in self._bodies.items() if n not in self.effectful and any(map(self.has, calls))}:
            self.effectful |= more

    def calls(self, module: str) -> Iterator[Place]:
        """Go through the calls in the functions of a module; those at module level are left out.

        What runs while a module is imported comes before everything that its process does.
        """
        return _calls(self.sources[module])

    def has(self, place: Place) -> bool:
        """Tell whether a call has an effect, or may have one."""
        if place.callee in PURE_VARIABLES:
            return False
        meant = self.meant(place)
        if meant:
            return any(map(self._effect_of, meant))
        callee = place.call.func
        return not (isinstance(callee, ast.Attribute) and callee.attr in PURE_METHODS)

    def meant(self, place: Place) -> set[str]:
        """Return the full names that a callee may mean; empty where nothing tells."""
        callee, written, names = place.call.func, place.callee, self.sources[place.module].names
        own = ".".join(("jobmill", place.module, *place.classes))
        if isinstance(callee, ast.Name):
            if callee.id == "cls" and place.classes:
                return {own}
            return set() if callee.id in place.shadowed else {names.get(callee.id, callee.id)}
        if not isinstance(callee, ast.Attribute):
            return set()
        head, _, rest = written.partition(".")
        if place.classes and rest == callee.attr and head in ("self", "cls"):
            return self._method(own, callee.attr)
        if place.classes and head == "super()" and rest == callee.attr:
            return set().union(*(self._method(base, callee.attr) for base in self._bases[own])) or {"object"}
        if hasattr(builtins, head) and head not in place.shadowed | names.keys():
            return {written}
        if head in names and head not in place.shadowed and "(" not in written and "[" not in written:
            full = f"{names[head]}.{rest}"
            if not full.startswith("jobmill.") or full in self._bodies or full in self._bases:
                return {full}
        return set() if callee.attr in PURE_METHODS else set(self._methods.get(callee.attr, ()))

    def collisions(self, without: Collection[str]) -> set[str]:
        """Return methods with an effect and a pure method's name, of modules other than these: they would be missed."""
        found = {full for name in PURE_METHODS for full in self._methods.get(name, ())} & self.effectful
        return {full for full in found if not any(full.startswith(f"jobmill.{m}.") for m in without)}

    def imported(self, roots: Collection[str]) -> set[str]:
        """Return the modules that are loaded with these, themselves included."""
        found: set[str] = set()
        line = [*roots]
        while line:
            module = line.pop()
            if module in self.sources and module not in found:
                found.add(module)
                for full in self.sources[module].names.values():
                    name = full.removeprefix("jobmill.")
                    line += [name, name.rpartition(".")[0]]
        return found

    def used(self, roots: Collection[str]) -> set[str]:
        """Return the functions that these can come to call or hand on, as far as names tell: at least those."""
        found: set[str] = set()
        line = [*roots]
        while line:
            one = line.pop()
            if one in self._bases:
                line += [full for full in self._bodies if full.rpartition(".")[0] == one and "__" in full]
            elif one in self._bodies and one not in found:
                found.add(one)
                line += self._mentioned[one]
                line += [full for full in self._bodies if full.startswith(f"{one}.")]  # functions within
        return found

    def modules_of(self, names: Collection[str]) -> set[str]:
        """Return the modules in which these functions and classes of jobmill stand; others stand in ``""``."""
        return {
            max((m for m in self.sources if full.startswith(f"jobmill.{m}.")), key=len, default="") for full in names
        }

    def single(self, modules: Collection[str]) -> set[str]:
        """Return the functions that one call alone means, all calls in these modules considered."""
        seen = Counter(full for module in modules for place in self.calls(module) for full in self.meant(place))
        return {full for full, count in seen.items() if count == 1}

    def _effect_of(self, full: str) -> bool:
        if full in self._bases:
            return bool((self._method(full, "__init__") | self._method(full, "__post_init__")) & self.effectful)
        if full.startswith("jobmill."):
            return full in self.effectful or full not in self._bodies
        if hasattr(builtins, full.partition(".")[0]):
            return full in IMPURE_BUILTINS
        return full not in PURE and full.partition(".")[0] not in PURE_MODULES

    def _method(self, full: str, name: str) -> set[str]:
        """Return what a method's name may mean on an object of this class: its own, inherited, overriding ones."""
        found: set[str] = set()
        line = [full]
        while line:
            one = line.pop()
            if f"{one}.{name}" in self._bodies:
                found.add(f"{one}.{name}")
            else:
                line += self._bases.get(one, ())
        if name not in ("__init__", "__post_init__"):
            found |= {f"{other}.{name}" for other in self._below(full) if f"{other}.{name}" in self._bodies}
        return found

    def _below(self, full: str) -> set[str]:
        direct = {other for other, bases in self._bases.items() if full in bases}
        return direct.union(*map(self._below, direct))

    def _mentions(self, source: Source, full: str, function: ast.AST) -> set[str]:
        """Return the functions and classes that a function's text names; a method by its name alone."""
        found = {full.rpartition(".")[0]}  # its class, for `cls`
        for node in ast.walk(function):
            if isinstance(node, ast.Name):
                found.add(source.names.get(node.id, ""))
            elif isinstance(node, ast.Attribute):
                head, _, rest = dotted(node).partition(".")
                found.add(f"{source.names.get(head, '')}.{rest}")
                found |= self._methods.get(node.attr, set())
        return found

    def _collect(self, source: Source) -> None:
        functions: list[tuple[Source, str, ast.AST]] = []

        def walk(node: ast.AST, prefix: str, inside: bool) -> None:
            for child in ast.iter_child_nodes(node):
                if isinstance(child, ast.ClassDef):
                    full = f"{prefix}.{child.name}"
                    self._bases[full] = [_full(source, dotted(base)) for base in child.bases]
                    walk(child, full, True)
                elif isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef):
                    full = f"{prefix}.{child.name}"
                    self._bodies[full] = []
                    functions.append((source, full, child))
                    if inside:
                        self._methods[child.name].add(full)
                    walk(child, full, False)
                else:
                    walk(child, prefix, inside)

        walk(source.tree, f"jobmill.{source.name}", False)
        self._texts += functions
        for place in _calls(source):
            self._bodies[f"jobmill.{source.name}.{place.function}"].append(place)


def dotted(node: ast.expr) -> str:
    """Return an expression as written, without arguments and indexes: ``self._systems[].submit``, ``Path().open``."""
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute):
        return f"{dotted(node.value)}.{node.attr}"
    if isinstance(node, ast.Call):
        return f"{dotted(node.func)}()"
    if isinstance(node, ast.Subscript):
        return f"{dotted(node.value)}[]"
    return "…"


_parsing = threading.Lock()  # two threads at once break the parser of Python 3.11 (python/cpython#106905)


def _read(package: Path, path: Path) -> Source:
    name = ".".join(path.relative_to(package).with_suffix("").parts).removesuffix(".__init__")
    text = path.read_text()
    with _parsing:
        tree = ast.parse(text)
    names: dict[str, str] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                names[alias.asname or alias.name.partition(".")[0]] = (
                    alias.name if alias.asname else alias.name.partition(".")[0]
                )
        elif isinstance(node, ast.ImportFrom):
            for alias in node.names:
                names[alias.asname or alias.name] = f"{node.module}.{alias.name}"
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            names[node.name] = f"jobmill.{name}.{node.name}"
    return Source(name=name, path=path, text=text, tree=tree, names=names)


def _full(source: Source, written: str) -> str:
    head, dot, rest = written.removesuffix("[]").partition(".")
    return source.names.get(head, head) + dot + rest


def _calls(source: Source) -> Iterator[Place]:
    """Go through the calls in functions, each with where it stands."""

    def walk(
        node: ast.AST,
        path: tuple[str, ...],
        classes: tuple[str, ...],
        shadowed: frozenset[str],
        inside: bool,
        text: bool,
    ) -> Iterator[Place]:
        if isinstance(node, ast.ClassDef):
            for child in node.body:
                yield from walk(child, (*path, node.name), (*classes, node.name), shadowed, inside, text)
            return
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            below = shadowed | _variables(node)
            for child in node.body:
                yield from walk(child, (*path, node.name), classes, below, True, text)
            return
        if isinstance(node, ast.Lambda):
            yield from walk(node.body, path, classes, shadowed | _variables(node), inside, text)
            return
        if isinstance(node, ast.AnnAssign):  # an annotation is no call
            if node.value is not None:
                yield from walk(node.value, path, classes, shadowed, inside, text)
            return
        if isinstance(node, ast.Call) and inside:
            yield Place(source.name, ".".join(path), node, classes, shadowed, text)
        for child in ast.iter_child_nodes(node):
            yield from walk(child, path, classes, shadowed, inside, text or isinstance(node, ast.JoinedStr))

    yield from walk(source.tree, (), (), frozenset(), False, False)


def _words(node: ast.AST) -> set[str]:
    """Return every name and attribute that is mentioned."""
    return {
        n.id if isinstance(n, ast.Name) else n.attr for n in ast.walk(node) if isinstance(n, ast.Name | ast.Attribute)
    }


def _variables(function: ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda) -> frozenset[str]:
    """Return the parameters and what is assigned in a function: there a name does not mean what it means outside."""
    a = function.args
    found = {arg.arg for arg in (*a.posonlyargs, *a.args, *a.kwonlyargs, *filter(None, (a.vararg, a.kwarg)))}
    found |= {n.id for n in ast.walk(function) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)}
    return frozenset(found)
