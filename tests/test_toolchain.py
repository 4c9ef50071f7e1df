"""What is missing is named with the command that installs it; what is broken inside is not dressed up as missing."""

from __future__ import annotations

import ast
import configparser
import sys
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from packaging.specifiers import SpecifierSet

from satchel_runtimes.errors import ToolchainError
from satchel_runtimes.toolchain import need, require_version, satisfies

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("sdk", "converters", "runtimes", "device_profiles", "benchmarks")

Install = Callable[[str, str], None]


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Install]:
    """Put a package with the given `__init__.py` where Python finds it."""
    monkeypatch.syspath_prepend(str(tmp_path))
    before = set(sys.modules)

    def put(name: str, code: str) -> None:
        path = tmp_path / f"{name}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(code, "utf-8")

    yield put
    for name in set(sys.modules) - before:
        del sys.modules[name]


def refusal(module: str, *, of: str = "satchel-runtimes") -> ToolchainError:
    with pytest.raises(ToolchainError) as caught:
        need(module, extra="neuron", to="compile for inf2", of=of)
    assert caught.value.what == "Cannot compile for inf2."
    assert caught.value.exit_code == 15
    return caught.value


def test_what_is_installed_is_imported() -> None:
    assert need("json.decoder", extra="onnx", to="read") is sys.modules["json.decoder"]


@pytest.mark.parametrize("module", ["satchel_no_such_engine", "satchel_no_such_engine.deep.inside"])
def test_a_missing_package_is_named_with_the_command_that_installs_it(module: str) -> None:
    error = refusal(module)

    assert error.why == "the package 'satchel_no_such_engine' is not installed"
    assert error.fix == "pip install 'satchel-runtimes[neuron]'"


def test_the_command_names_the_distribution_that_has_the_extra() -> None:
    assert refusal("satchel_no_such_engine", of="satchel").fix == "pip install 'satchel[neuron]'"


@pytest.mark.parametrize(
    "code",
    [
        'raise RuntimeError("WRONG PACKAGE: this is a placeholder, see the docs")',
        'raise ImportError("This is a dummy package; the real one is elsewhere")',
    ],
)
def test_a_stub_that_refuses_to_be_imported_is_told_from_the_real_package(install: Install, code: str) -> None:
    install("fake_neuron/__init__", code)

    error = refusal("fake_neuron")

    assert "the installed package 'fake_neuron' is a stub" in error.why
    assert "pip uninstall fake_neuron" in error.fix
    assert "vendor's own index" in error.fix


def test_a_folder_that_an_uninstall_left_behind_is_a_stub(install: Install, tmp_path: Path) -> None:
    (tmp_path / "left_over" / "lib").mkdir(parents=True)

    assert "the installed package 'left_over' is a stub" in refusal("left_over").why


def test_a_stub_without_the_module_that_is_needed_is_a_stub(install: Install, tmp_path: Path) -> None:
    (tmp_path / "left_over").mkdir()
    install("thin/__init__", "")

    assert "stub: it has the name, not the code 'left_over.models'" in refusal("left_over.models.auto").why
    assert "stub: it has the name, not the code 'thin.models'" in refusal("thin.models.auto").why


@pytest.mark.parametrize(
    ("code", "error"),
    [
        ("import satchel_no_such_dependency", ModuleNotFoundError),
        ("from json import no_such_name", ImportError),
        ('raise RuntimeError("the driver is too old")', RuntimeError),
        ('raise OSError("libneuron.so: cannot open shared object file")', OSError),
        ("1 / 0", ZeroDivisionError),
    ],
)
def test_a_package_that_is_broken_inside_shows_its_own_error(
    install: Install, code: str, error: type[Exception]
) -> None:
    install("broken/__init__", code)

    with pytest.raises(error) as caught:
        need("broken", extra="neuron", to="compile for inf2")
    assert not isinstance(caught.value, ToolchainError)


def test_a_missing_dependency_of_a_submodule_is_not_blamed_on_the_package(install: Install) -> None:
    install("whole/__init__", "")
    install("whole/part", "import satchel_no_such_dependency")

    with pytest.raises(ModuleNotFoundError, match="satchel_no_such_dependency"):
        need("whole.part", extra="neuron", to="compile for inf2")


# Versions

releases = st.lists(st.integers(0, 30), min_size=1, max_size=4).map(lambda parts: ".".join(map(str, parts)))
clauses = (
    st.builds("{}{}".format, st.sampled_from([">=", "<=", "==", "!=", ">", "<", ">= ", "== "]), releases)
    | st.builds("{}{}.*".format, st.sampled_from(["==", "!="]), releases)
    | st.builds("~={}".format, releases.filter(lambda release: "." in release))
)


@settings(max_examples=500, deadline=None)
@given(version=releases, wanted=st.lists(clauses, max_size=3).map(",".join))
def test_a_range_means_what_pip_takes_it_for(version: str, wanted: str) -> None:
    assert satisfies(version, wanted) == SpecifierSet(wanted).contains(version)


@pytest.mark.parametrize(
    ("version", "wanted", "fits"),
    [
        ("1.17.1", ">=1.17,<2", True),
        ("1.16.3", ">=1.17", False),
        ("1.9", ">=1.17", False),
        ("2.0.0rc1", ">=2.0", True),  # a pre-release counts as its release
        ("2.13.0+cpu", "==2.13.0", True),
        ("1.13.1", "==1.13.*", True),
        ("1.13", "~=1.13.2", False),
        ("anything", "", True),
        ("anything", ">=0", True),
    ],
)
def test_release_numbers_are_compared_as_numbers(version: str, wanted: str, fits: bool) -> None:
    assert satisfies(version, wanted) is fits


@pytest.mark.parametrize("wanted", ["1.17", "latest", ">=1.x", "=>1", ">=1.*", "~=1", "==1;2", ">=" + "9" * 5000])
@pytest.mark.parametrize("before", ["", ">=99,"])
def test_what_is_not_a_range_is_refused_whatever_the_version(before: str, wanted: str) -> None:
    with pytest.raises(ValueError, match="is not a version range"):
        satisfies("1.17", before + wanted)


def test_an_engine_outside_the_range_is_refused_with_the_command_that_mends_it() -> None:
    require_version("onnxruntime", "1.17.3", ">=1.17", to="run the bundle b")

    with pytest.raises(ToolchainError) as caught:
        require_version("onnxruntime", "1.16.3", ">=1.17", to="run the bundle b")
    assert caught.value.why == "it needs onnxruntime >=1.17; 1.16.3 is installed"
    assert caught.value.fix == "pip install 'onnxruntime>=1.17'"


# The extras that messages name


def declared() -> dict[str, set[str]]:
    """distribution -> its extras"""
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg", "utf-8")
    runtimes = tomllib.loads((ROOT / "runtimes" / "pyproject.toml").read_text("utf-8"))
    return {
        "satchel": set(setup["options.extras_require"]),
        "satchel-runtimes": set(runtimes["project"]["optional-dependencies"]),
    }


def named() -> Iterator[tuple[str, str, str]]:
    """Every place in the code that names an extra: where, of which distribution, which."""
    for package in PACKAGES:
        for file in sorted((ROOT / package).rglob("*.py")):
            for node in ast.walk(ast.parse(file.read_text("utf-8"))):
                if not isinstance(node, ast.Call):
                    continue
                given = {word.arg: word.value for word in node.keywords}
                if "extra" not in given:
                    continue
                where = f"{file.relative_to(ROOT)}:{node.lineno}"
                function = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
                extra, of = given["extra"], given.get("of")
                if isinstance(extra, ast.Constant):
                    default = "satchel-runtimes" if function == "need" else "satchel"
                    distribution = of.value if isinstance(of, ast.Constant) else default
                    yield where, str(distribution), str(extra.value)
                else:
                    assert function != "need", f"{where}: need(extra=…) is not a plain string"


def test_the_extras_are_those_of_the_design() -> None:
    assert declared() == {
        "satchel": {"convert", "convert-tflite", "evaluate", "tune", "report", "dev"},
        "satchel-runtimes": {
            "onnx",
            "tflite",
            "tflite-legacy",
            "torch",
            "neuron",
            "text",
            "vision",
            "audio",
            "ocr",
            "video",
            "index",
            "chat",
            "structured",
        },
    }


def test_every_extra_that_a_message_names_can_be_installed() -> None:
    extras, places = declared(), list(named())

    assert any(distribution == "satchel" for _, distribution, _ in places)
    assert any(distribution == "satchel-runtimes" for _, distribution, _ in places)
    assert [place for place in places if place[2] not in extras[place[1]]] == []
