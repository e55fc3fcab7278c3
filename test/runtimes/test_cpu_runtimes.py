"""ONNX Runtime and OpenVINO execute the same files, agree, and say what is wrong with bad ones."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from small_graph import HEIGHT, SLOTS, WIDTH, build_model

from fassst_ros.card import load_card
from fassst_ros.config import RuntimeOptions
from fassst_ros.runtimes import check_specs, create_runtime
from fassst_ros.runtimes.base import usable_cores
from fassst_ros.types import ConfigError, InputError, ModelError, RuntimeUnavailable

CPU = ("onnxruntime", "openvino")


def open_f32(name: str, model: Path, **options: object):
    return create_runtime(model, RuntimeOptions(runtime=name, precision="f32", **options))


@pytest.mark.parametrize("name", CPU)
def test_specs_are_those_of_the_card(name: str, model: Path) -> None:
    with open_f32(name, model) as runtime:
        check_specs(runtime, load_card(model))
        assert [spec.name for spec in runtime.outputs] == ["scores", "labels", "boxes", "masks"]
        assert str(runtime.inputs[0]) == f"images uint8 (1, {HEIGHT}, {WIDTH}, 3)"
        assert runtime.name == name
        assert runtime.precision == "f32"


def test_both_agree_in_f32(model: Path, make_images) -> None:
    with open_f32("onnxruntime", model) as one, open_f32("openvino", model) as other:
        for seed in range(3):
            images = make_images(seed)
            expected, came = one.infer({"images": images}), other.infer({"images": images})
            assert expected["scores"].std() > 1e-4  # the answer depends on the image
            np.testing.assert_array_equal(came["labels"], expected["labels"])
            for tensor, tolerance in (("scores", 1e-5), ("boxes", 1e-3), ("masks", 1e-4)):
                np.testing.assert_allclose(came[tensor], expected[tensor], atol=tolerance, rtol=0)


def test_both_agree_on_the_shipped_model(shipped_model: Path, make_images) -> None:
    card = load_card(shipped_model)
    images = make_images(1, card.input_height, card.input_width)
    with open_f32("onnxruntime", shipped_model) as one, open_f32("openvino", shipped_model) as other:
        check_specs(one, card)
        check_specs(other, card)
        expected, came = one.infer({"images": images}), other.infer({"images": images})
    np.testing.assert_allclose(came["scores"], expected["scores"], atol=1e-4, rtol=0)
    # slots whose scores are equal to rounding may be ranked either way
    ranked = np.abs(np.diff(expected["scores"][0])) > 1e-4
    clear = np.r_[True, ranked] & np.r_[ranked, True]
    assert clear.any()
    np.testing.assert_array_equal(came["labels"][0, clear], expected["labels"][0, clear])
    np.testing.assert_allclose(came["boxes"][0, clear], expected["boxes"][0, clear], atol=2e-2, rtol=0)
    np.testing.assert_allclose(came["masks"][0, clear], expected["masks"][0, clear], atol=2e-3, rtol=0)


@pytest.mark.parametrize("name", CPU)
def test_outputs_have_their_specs_and_follow_the_input(name: str, model: Path, make_images) -> None:
    with open_f32(name, model) as runtime:
        first = {k: v.copy() for k, v in runtime.infer({"images": make_images(1)}).items()}
        other = {k: v.copy() for k, v in runtime.infer({"images": make_images(2)}).items()}
        again = runtime.infer({"images": make_images(1)})
        for spec in runtime.outputs:
            assert again[spec.name].shape == spec.shape
            assert again[spec.name].dtype == spec.dtype
            np.testing.assert_array_equal(again[spec.name], first[spec.name])
        assert not np.array_equal(first["masks"], other["masks"])


@pytest.mark.parametrize("name", CPU)
def test_a_reused_input_buffer_is_read_at_every_call(name: str, model: Path, make_images) -> None:
    buffer = make_images(1)
    with open_f32(name, model) as runtime:
        first = runtime.infer({"images": buffer})["masks"].copy()
        buffer[:] = make_images(2)
        changed = runtime.infer({"images": buffer})["masks"].copy()
        fresh = runtime.infer({"images": make_images(2)})["masks"]
        assert not np.array_equal(first, changed)
        np.testing.assert_array_equal(changed, fresh)


@pytest.mark.parametrize("name", CPU)
def test_lent_inputs_are_the_callers_own(name: str, model: Path, make_images) -> None:
    with open_f32(name, model) as runtime:
        one, two = runtime.lend(), runtime.lend()
        for spec in runtime.inputs:
            assert (one[spec.name].shape, one[spec.name].dtype) == (spec.shape, spec.dtype)
        one["images"][:], two["images"][:] = make_images(1), make_images(2)
        fresh = runtime.infer({"images": make_images(1)})["masks"].copy()
        np.testing.assert_array_equal(runtime.infer(one)["masks"], fresh)
        np.testing.assert_array_equal(one["images"], make_images(1))
    with pytest.raises(RuntimeUnavailable, match="closed"):
        runtime.lend()


@pytest.mark.parametrize("name", CPU)
def test_a_strided_feed_gives_the_same_answer(name: str, model: Path, make_images) -> None:
    images = make_images(3)
    wide = np.zeros((1, HEIGHT, WIDTH + 7, 3), np.uint8)
    wide[:, :, :WIDTH] = images
    with open_f32(name, model) as runtime:
        expected = runtime.infer({"images": images})["boxes"].copy()
        np.testing.assert_array_equal(runtime.infer({"images": wide[:, :, :WIDTH]})["boxes"], expected)


@pytest.mark.parametrize("name", CPU)
@pytest.mark.parametrize(
    ("feeds", "message"),
    [
        ({}, "fed nothing; expected images"),
        ({"image": np.zeros((1, HEIGHT, WIDTH, 3), np.uint8)}, "fed image; expected images"),
        ({"images": np.zeros((1, HEIGHT, WIDTH, 3), np.float32)}, "is float32 .* expected images uint8"),
        ({"images": np.zeros((1, WIDTH, HEIGHT, 3), np.uint8)}, r"is uint8 \(1, 96, 64, 3\); expected"),
        ({"images": np.zeros((HEIGHT, WIDTH, 3), np.uint8)}, "expected images uint8"),
        ({"images": [1, 2, 3]}, "is a list; expected an array"),
    ],
)
def test_wrong_feeds_are_refused(name: str, model: Path, feeds: dict, message: str, make_images) -> None:
    with open_f32(name, model) as runtime:
        with pytest.raises(InputError, match=message):
            runtime.infer(feeds)
        assert runtime.infer({"images": make_images()})["scores"].shape == (1, SLOTS)  # and it goes on


@pytest.mark.parametrize("name", CPU)
def test_close(name: str, model: Path, make_images) -> None:
    runtime = open_f32(name, model)
    outputs = runtime.infer({"images": make_images()})
    before = outputs["masks"].copy()
    runtime.close()
    runtime.close()
    with pytest.raises(RuntimeUnavailable, match=f"{name} runtime is closed"):
        runtime.infer({"images": make_images()})
    np.testing.assert_array_equal(outputs["masks"], before)  # arrays outlive the runtime


@pytest.mark.parametrize("name", CPU)
@pytest.mark.parametrize("threads", [0, 1, 2])
def test_threads(name: str, model: Path, threads: int, make_images) -> None:
    with open_f32(name, model, threads=threads) as runtime:
        assert runtime.device == f"CPU ({threads or usable_cores()} threads)"
        assert np.isfinite(runtime.infer({"images": make_images()})["scores"]).all()


@pytest.mark.parametrize("name", [*CPU, "auto"])
@pytest.mark.parametrize("keep", [0, 1, 100, 0.5, 0.99])
def test_damaged_files_are_model_errors(name: str, keep: float, model: Path, tmp_path: Path) -> None:
    data = model.read_bytes()
    path = tmp_path / "damaged.onnx"
    path.write_bytes(data[: keep if isinstance(keep, int) else int(len(data) * keep)])
    with pytest.raises(ModelError, match=r"damaged\.onnx"):
        create_runtime(path, RuntimeOptions(runtime=name))


@pytest.mark.parametrize("name", CPU)
def test_a_file_of_another_kind_is_a_model_error(name: str, tmp_path: Path) -> None:
    path = tmp_path / "text.onnx"
    path.write_text("version https://git-lfs.github.com/spec/v1\n", encoding="utf-8")
    with pytest.raises(ModelError, match="copy the model again"):
        create_runtime(path, RuntimeOptions(runtime=name))


@pytest.mark.parametrize("name", CPU)
def test_a_missing_file_and_a_folder_are_model_errors(name: str, tmp_path: Path) -> None:
    for path in (tmp_path / "missing.onnx", tmp_path):
        with pytest.raises(ModelError, match="does not exist"):
            create_runtime(path, RuntimeOptions(runtime=name))


@pytest.mark.parametrize("name", CPU)
def test_an_unknown_operator_is_a_model_error(name: str, tmp_path: Path) -> None:
    graph = build_model()
    (sigmoid,) = (node for node in graph.graph.node if node.output[0] == "mask_cells")
    sigmoid.op_type = "FourierMagic"
    path = tmp_path / "unknown.onnx"
    path.write_bytes(graph.SerializeToString())
    with pytest.raises(ModelError, match="FourierMagic"):
        create_runtime(path, RuntimeOptions(runtime=name))


@pytest.mark.parametrize("name", CPU)
def test_a_dynamic_shape_is_a_model_error(name: str, tmp_path: Path) -> None:
    info = helper.make_tensor_value_info
    images = info("images", TensorProto.UINT8, ["batch", 8, 8, 3])
    pixels = info("scores", TensorProto.FLOAT, ["batch", 8, 8, 3])
    cast = helper.make_node("Cast", ["images"], ["scores"], to=TensorProto.FLOAT)
    graph = helper.make_graph([cast], "dynamic", [images], [pixels])
    path = tmp_path / "dynamic.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    with pytest.raises(ModelError, match="dynamic shape"):
        create_runtime(path, RuntimeOptions(runtime=name))


def test_a_frame_that_fails_is_an_error_of_ours_and_the_next_one_works(tmp_path: Path) -> None:
    info = helper.make_tensor_value_info
    nodes = [
        helper.make_node("Cast", ["images"], ["index"], to=TensorProto.INT64),
        helper.make_node("Gather", ["table", "index"], ["scores"]),  # fails for pixels of 3 and more
    ]
    images = info("images", TensorProto.UINT8, [2])
    scores = info("scores", TensorProto.FLOAT, [2])
    table = helper.make_tensor("table", TensorProto.FLOAT, [3], [0.0, 1.0, 2.0])
    graph = helper.make_graph(nodes, "gather", [images], [scores], [table])
    path = tmp_path / "gather.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    with create_runtime(path, RuntimeOptions(runtime="onnxruntime")) as runtime:
        with pytest.raises(RuntimeUnavailable, match="onnxruntime failed to execute the model"):
            runtime.infer({"images": np.array([0, 200], np.uint8)})
        came = runtime.infer({"images": np.array([2, 1], np.uint8)})["scores"]
        np.testing.assert_array_equal(came, [2.0, 1.0])


@pytest.mark.parametrize("precision", ["bf16", "fp16", "int8"])
def test_onnxruntime_refuses_precisions_that_it_lacks(precision: str, model: Path) -> None:
    with pytest.raises(ConfigError, match=precision):
        create_runtime(model, RuntimeOptions(runtime="onnxruntime", precision=precision))


def test_openvino_reports_the_precision_that_it_uses(model: Path, make_images) -> None:
    import openvino

    capabilities = openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    with open_f32("openvino", model) as runtime:
        expected = runtime.infer({"images": make_images()})["boxes"].copy()
    for precision, capability in (("bf16", "BF16"), ("fp16", "FP16")):
        options = RuntimeOptions(runtime="openvino", precision=precision)
        if capability not in capabilities:
            with pytest.raises(RuntimeUnavailable, match="Set precision to default"):
                create_runtime(model, options)
            continue
        with create_runtime(model, options) as runtime:
            assert runtime.precision == precision
            came = runtime.infer({"images": make_images()})["boxes"]
            assert 0 < np.abs(came - expected).max() < 1.0  # rounded, and not more than that


def test_openvino_refuses_int8_for_a_model_without_it(model: Path) -> None:
    with pytest.raises(ConfigError, match="computes in float: INT8 is a file of its own"):
        create_runtime(model, RuntimeOptions(runtime="openvino", precision="int8"))
