"""What crosses to C++ is checked: sizes of structs and numbers when it is loaded, arrays when they
are handed over; and a compiler without OpenMP makes the same library on other threads.
"""

from __future__ import annotations

import re
import shutil
import stat
import sys
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from engine_models import FAST, engine_of, random_model
from forests import plan_of
from torch import Tensor

from genac.engines.base import Request
from genac.models.packed.attention import FusedAttention
from genac.native import compiler, decode, library
from genac.native.layers import PASSES, WEIGHTS, Sizes, array_shapes, layer_pass, weight_shapes
from genac.native.library import pointer
from genac.native.structs import MIRRORS
from genac.native.tree_attention import attend

CSRC = Path(compiler.__file__).parent / "csrc"
needs_compiler = pytest.mark.skipif(library.library() is None, reason="needs a C++ compiler")


@pytest.fixture
def anew(tmp_path, monkeypatch):
    """A machine on which nothing was compiled yet."""
    library.library.cache_clear()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    yield tmp_path
    library.library.cache_clear()


# --- structs and numbers -------------------------------------------------------------------------


def fields_in_c(name: str) -> list[str]:
    """The fields of a struct of structs.h, in their order."""
    header = re.sub(r"//.*", "", (CSRC / "structs.h").read_text())
    body = re.search(rf"struct {name} \{{(.*?)\}};", header, re.S)
    assert body is not None
    declarations = [line.split(None, 1)[1] for line in body[1].replace("const", "").split(";")[:-1]]
    return [name.strip(" *\n") for names in declarations for name in names.split(",")]


@pytest.mark.parametrize("mirror", MIRRORS, ids=lambda mirror: mirror.__name__)
def test_a_mirror_has_the_fields_of_its_struct_in_their_order(mirror):
    assert [name for name, *_ in mirror._fields_] == fields_in_c(mirror.__name__[1:])


def test_every_struct_of_the_boundary_has_one_mirror():
    names = re.findall(r"^struct (\w+)", (CSRC / "structs.h").read_text(), re.M)
    assert sorted(names) == sorted(mirror.__name__[1:] for mirror in MIRRORS)


@needs_compiler
@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("struct Texts {", "struct Texts {\n    Int more;", "struct Texts has 48 bytes.*40 bytes"),
        ("Int start, length, prefix", "int start, length, prefix", "struct Segment has 16 bytes"),
        ("enum Activation : Int { SILU, GELU_TANH", "enum Activation : Int { GELU_TANH, SILU",
         "activation 'silu' has number 1.*0"),
    ],
)  # fmt: skip
def test_a_library_of_other_structs_or_numbers_is_refused(anew, monkeypatch, old, new, message):
    header = (CSRC / "structs.h").read_text()
    assert old in header
    (anew / "structs.h").write_text(header.replace(old, new))
    shutil.copy(CSRC / "interface.cpp", anew)
    sources = [anew / "interface.cpp", anew / "structs.h"]
    monkeypatch.setattr(compiler, "SOURCES", sources)
    with pytest.raises(RuntimeError, match=message):
        library.library()
    with pytest.raises(RuntimeError, match=message):  # not once only
        library.library()


# --- arrays --------------------------------------------------------------------------------------

GOOD = torch.zeros(4, 6)


@pytest.mark.parametrize(
    "x",
    [
        GOOD.double(),
        GOOD.long(),
        GOOD.flatten(),
        GOOD[None],
        GOOD[:3],
        GOOD.T,
        torch.zeros(6, 4).T,
        torch.zeros(4, 12)[:, ::2],
        torch.zeros(1, 6).expand(4, 6),
        GOOD.to("meta"),
        None,
    ],
    ids=["double", "long", "flat", "deep", "short", "turned", "strides", "step", "expanded", "meta",
         "missing"],
)  # fmt: skip
def test_an_array_of_another_kind_is_refused_by_its_name(x):
    assert pointer(GOOD, torch.float32, (4, 6), "gates") == GOOD.data_ptr()
    for strided in (False, True):
        with pytest.raises(ValueError, match=r"gates is .*C needs torch.float32 \(4, 6\)"):
            pointer(x, torch.float32, (4, 6), "gates", strided=strided)


def test_what_may_be_missing_or_of_any_length_may_be():
    assert pointer(None, torch.float32, (4, 6), "gates", nullable=True) is None
    assert pointer(GOOD, torch.float32, (None, 6), "gates") == GOOD.data_ptr()
    assert pointer(GOOD[:0], torch.float32, (None, 6), "gates") is not None
    with pytest.raises(ValueError, match=r"gates is .*\(4, 6\).*\(any, 5\)"):
        pointer(GOOD, torch.float32, (None, 5), "gates")


def test_rows_of_a_wider_array_pass_where_c_takes_their_distance():
    wide = torch.zeros(4, 10)[:, 2:8]
    assert pointer(wide, torch.float32, (4, 6), "rows", strided=True) == wide.data_ptr()
    with pytest.raises(ValueError, match="rows is"):
        pointer(wide, torch.float32, (4, 6), "rows")


SIZES = Sizes(5, hidden=16, heads=2, kv_heads=1, dim=16, inner=24, activation=0, eps=1e-6)


def layer_arguments(name: str) -> tuple[dict[str, Tensor], list[Tensor]]:
    shapes, (_, names) = array_shapes(SIZES), PASSES[name]
    arrays = {x: torch.zeros(shapes[x]) for x in names.split()}
    return arrays, [torch.zeros(weight_shapes(SIZES)[x]) for x in WEIGHTS]


@needs_compiler
@pytest.mark.parametrize("name", PASSES)
def test_a_layers_pass_refuses_every_array_and_weight_of_another_shape(name):
    arrays, weights = layer_arguments(name)
    layer_pass(name, SIZES, weights, **arrays)
    for x in arrays:
        with pytest.raises(ValueError, match=rf"^{x} is "):
            layer_pass(name, SIZES, weights, **arrays | {x: torch.zeros(3, 3)})
    for place, weight in list(enumerate(WEIGHTS))[PASSES[name][0]]:
        odd = [*weights]
        odd[place] = torch.zeros(3)
        with pytest.raises(ValueError, match=f"^{weight} is "):
            layer_pass(name, SIZES, odd, **arrays)
        with pytest.raises(ValueError, match=f"^gradient of {weight} is "):
            layer_pass(name, SIZES, weights, odd, **arrays)


@needs_compiler
def test_what_a_layer_needs_may_not_be_missing():
    arrays, weights = layer_arguments("attn_out_mlp_fwd")
    layer_pass(
        "attn_out_mlp_fwd", SIZES, weights, **arrays | dict.fromkeys(("mid", "ups", "gates"))
    )
    with pytest.raises(ValueError, match=r"^attended is missing"):
        layer_pass("attn_out_mlp_fwd", SIZES, weights, **arrays | {"attended": None})
    with pytest.raises(ValueError, match=r"^down is missing"):
        layer_pass("attn_out_mlp_fwd", SIZES, [*weights[:-1], None], **arrays)


@needs_compiler
@pytest.mark.parametrize("name", ["q", "k", "v", "out", "lse", "grad", "dq", "dk", "dv"])
def test_tree_attention_refuses_every_array_of_another_kind(name):
    plan = plan_of([(5, [(3, 4)])])
    arrays = {x: torch.zeros(plan.length, 2, 8) for x in ("q", "k", "v", "out", "grad")}
    arrays |= {"lse": torch.zeros(plan.length, 2)}
    arrays |= {x: torch.zeros(plan.length, 2, 8) for x in ("dq", "dk", "dv")}
    attend(plan.table, plan.prefix_groups, 1.0, **arrays)
    for other in (arrays[name][:-1], arrays[name].double(), arrays[name].mT.contiguous().mT):
        with pytest.raises(ValueError, match=f"^{'(q|k|v|lse)' if name == 'q' else name} is "):
            attend(plan.table, plan.prefix_groups, 1.0, **arrays | {name: other})


@needs_compiler
def test_a_decoder_refuses_rows_and_draws_of_another_kind():
    decoder = engine_of(random_model(FAST["llama"])).decoder
    assert decoder is not None and decoder.native is not None
    native, two = decoder.native, torch.zeros(2, dtype=torch.long)
    rows = {"own": native.room(2, 8), "length_B": two, "shared_B": two}
    native.decode(decode.Rows(**rows), two)
    for name, x in (
        ("own", rows["own"].double()),
        ("shared_B", two.int()),
        ("own", two.float()[:, None]),
    ):
        with pytest.raises(ValueError, match=f"^{name} is"):
            native.decode(decode.Rows(**rows | {name: x}), two)
    with pytest.raises(ValueError, match=r"^token_B is"):
        native.decode(decode.Rows(**rows), two[:1])
    with pytest.raises(ValueError, match=r"^row_N is"):
        native.read(decode.Rows(**rows), two[:1], [(1,), (2,)], predict=True)


# --- compilers -----------------------------------------------------------------------------------

APPLE = f"""#!{sys.executable}
import os, sys
args = sys.argv[1:]
for before, flag in zip(["", *args], args):
    if flag == "-fopenmp" and before != "-Xpreprocessor":
        sys.exit("clang: error: unsupported option '-fopenmp'")
    if flag == "-lomp":
        sys.exit("ld: library 'omp' not found")
    if flag in {{refused}}:
        sys.exit(f"clang: error: unsupported option '{{{{flag}}}}'")
with open(os.path.join(os.path.dirname(sys.argv[0]), "log"), "a") as log:
    print(*args, file=log)
os.execvp("c++", ["c++", *args])
"""


def apple(folder: Path, refused: tuple[str, ...] = ()) -> Path:
    """A compiler that refuses OpenMP as Apple's clang without libomp does."""
    folder.mkdir()
    path = folder / "apple-clang"
    path.write_text(APPLE.format(refused=refused).replace("{{", "{").replace("}}", "}"))
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return path


def everything() -> list[Any]:
    """Completions of a model, and a forest's attention with its gradients."""
    plan = plan_of([(90, [(60, 30), (90, 17)]), (40, [])])
    drawn = torch.Generator().manual_seed(0)
    tokens = [torch.randn(plan.length, 2, 16, generator=drawn).requires_grad_() for _ in range(3)]
    attended = FusedAttention.apply(*tokens, plan, 0.25)
    requests = [Request((3 + i % 5, 4), 20, seed=i) for i in range(20)]
    done = engine_of(random_model(FAST["qwen3"])).generate(requests)
    rows = [(c.ids, c.finish, c.logprobs.tolist()) for c in done]
    return [rows, *(x.tolist() for x in torch.autograd.grad(attended.square().sum(), tokens))]


@needs_compiler
@pytest.mark.slow  # compiles everything twice
@pytest.mark.skipif(shutil.which("c++") is None, reason="the wrapper calls c++")
def test_without_openmp_threads_of_another_kind_give_the_same_bits_and_one_warning(
    anew, monkeypatch
):
    monkeypatch.setenv("CXX", "c++")
    expected = everything()
    library.library.cache_clear()
    monkeypatch.setenv("CXX", str(apple(anew / "bin")))
    with pytest.warns(UserWarning, match=r"without OpenMP.*install g\+\+, or libomp") as seen:
        loaded = library.library()
        library.library()
    assert len(seen) == 1 and loaded is not None and not loaded.genac_openmp()
    before = torch.get_num_threads()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            for threads in (1, 2, 3):
                torch.set_num_threads(threads)
                assert everything() == expected
    finally:
        torch.set_num_threads(before)


@needs_compiler
@pytest.mark.skipif(shutil.which("c++") is None, reason="the wrapper calls c++")
def test_flags_that_a_compiler_does_not_know_are_left_out(anew, monkeypatch):
    path = apple(anew / "bin", ("-march=native", "-mcpu=native"))
    monkeypatch.setattr(compiler, "SOURCES", [CSRC / "interface.cpp", CSRC / "structs.h"])
    monkeypatch.setenv("CXX", str(path))
    first = compiler.compiled()
    assert compiler.compiled() == first and first.exists()
    (line,) = [x for x in (path.parent / "log").read_text().splitlines() if "interface" in x]
    assert not [flag for flag in line.split() if flag.endswith(("=native", "openmp", "omp"))]
