"""The server's settings: every key is one that TorchServe knows, agrees with the package's own and is documented."""

import dataclasses
import json
import os
import re
import struct
import time
import zipfile
from importlib.util import find_spec
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from lookalike import metrics, server_config
from lookalike.config import ImageLimits, MilvusSettings, ModelSettings, RouterSettings, StoreSettings
from lookalike.errors import SetupError
from lookalike.process_table import ProcessId
from lookalike.server_commands import app as server_commands
from lookalike.server_config import (
    ServerFiles,
    ServerSettings,
    choose_addresses,
    java_command,
    read_properties,
    render_config,
    router_workers,
    server_environment,
)

ROOT = Path(__file__).parents[2]
MODELS = ["detector", "embedder", "metadata_creator", "search"]
CONFIG = (ROOT / "docker/config.properties").read_text()
SERVING_PAGE = (ROOT / "docs/serving.md").read_text()

# What org.pytorch.serve.archive.model.ModelConfig.build of TorchServe 0.12.0 reads; it silently ignores anything else.
MODEL_KEYS = {
    *("minWorkers", "maxWorkers", "batchSize", "maxBatchDelay", "responseTimeout", "startupTimeout"),
    *("deviceType", "deviceIds", "parallelType", "parallelLevel", "torchrun", "maxRetryTimeoutInSec"),
    *("clientTimeoutInMills", "jobQueueSize", "useJobTicket", "useVenv", "asyncCommunication"),
    *("sequenceMaxIdleMSec", "sequenceTimeoutMSec", "maxSequenceJobQueueSize", "maxNumSequence"),
    *("continuousBatching", "sequenceBatching"),
}


def strings_of_class(name: str) -> set[str]:
    """Return the UTF-8 constants of a class inside the installed server."""
    spec = find_spec("ts")
    assert spec is not None and spec.origin is not None
    with zipfile.ZipFile(Path(spec.origin).parent / "frontend/model-server.jar") as jar:
        data = jar.read(name)
    (count,) = struct.unpack_from(">H", data, 8)
    sizes = {3: 4, 4: 4, 5: 8, 6: 8, 7: 2, 8: 2, 9: 4, 10: 4, 11: 4, 12: 4, 15: 3, 16: 2, 17: 4, 18: 4, 19: 2, 20: 2}
    found, at, index = set(), 10, 1
    while index < count:
        tag = data[at]
        if tag == 1:
            (length,) = struct.unpack_from(">H", data, at + 1)
            found.add(data[at + 3 : at + 3 + length].decode(errors="replace"))
            at += 3 + length
        else:
            at += 1 + sizes[tag]
            index += tag in (5, 6)  # long and double take two slots
        index += 1
    return found


def model_config(name: str) -> dict[str, object]:
    return yaml.safe_load((ROOT / f"model_store/{name}/model-config.yaml").read_text())


@pytest.fixture
def files(tmp_path):
    return dataclasses.replace(ServerFiles.of(ROOT), archives=tmp_path / "archives", state=tmp_path)


@pytest.fixture
def addresses(tmp_path):
    return choose_addresses(ServerSettings(port=0, metrics_port=0), tmp_path)


def test_the_installed_server_knows_every_key_of_config_properties():
    known = strings_of_class("org/pytorch/serve/util/ConfigManager.class")
    assert set(read_properties(CONFIG)) - known == set()


def test_the_installed_server_still_has_the_known_model_keys():
    assert MODEL_KEYS - strings_of_class("org/pytorch/serve/archive/model/ModelConfig.class") == set()


@pytest.mark.parametrize("name", MODELS)
def test_a_model_config_holds_only_keys_that_are_read(name):
    assert set(model_config(name)) - MODEL_KEYS == {"handler"}


@pytest.mark.parametrize("name", MODELS)
def test_a_model_config_does_not_wait_for_a_batch(name):
    assert model_config(name)["maxBatchDelay"] == 1


@pytest.mark.parametrize("name", [name for name in MODELS if name != "search"])
def test_a_model_config_names_its_workers(name):
    config = model_config(name)
    assert (config["minWorkers"], config["maxWorkers"]) == (1, 1)


def test_the_routers_workers_are_left_to_the_start_as_an_archive_would_win():
    assert {"minWorkers", "maxWorkers", "batchSize"} & model_config("search").keys() == set()


@pytest.mark.parametrize("name", ["detector", "embedder", "metadata_creator"])
def test_a_models_handler_section_validates(name):
    assert isinstance(ModelSettings.load(model_config(name)["handler"]), ModelSettings)


def test_the_routers_handler_section_validates():
    assert isinstance(RouterSettings.load(model_config("search")["handler"]), RouterSettings)


def test_a_wrong_handler_key_is_refused_by_name():
    with pytest.raises(SetupError, match="deadlines_ms"):
        RouterSettings.load({**model_config("search")["handler"], "deadlines_ms": 1})


def test_the_watchdog_is_far_above_every_deadline():
    config = model_config("search")
    assert config["responseTimeout"] * 1000 >= 2 * RouterSettings.load(config["handler"]).deadline_ms


def test_the_largest_allowed_image_fits_into_a_request_as_base64():
    max_request = int(read_properties(CONFIG)["max_request_size"])
    base64_of_largest = -(-ImageLimits().max_bytes // 3) * 4
    assert base64_of_largest < max_request < 1.1 * base64_of_largest


@pytest.mark.parametrize(
    ("name", "hidden"),
    [
        ("AWS_SECRET_ACCESS_KEY", True),
        ("REGISTRY_TOKEN", True),
        ("db_password", True),
        ("PATH", False),
        ("LOOKALIKE_ROUTER_INDEX_DIR", False),
        ("OMP_NUM_THREADS", False),
    ],
)
def test_secrets_in_the_environment_are_kept_from_workers(name, hidden):
    pattern = read_properties(CONFIG)["blacklist_env_vars"]
    assert (re.fullmatch(pattern, name) is not None) == hidden


@pytest.mark.parametrize("url", ["http://example.org/a.mar", "file:///etc/passwd", "search.mar", ""])
def test_no_address_is_allowed_to_be_fetched(url):
    assert re.fullmatch(read_properties(CONFIG)["allowed_urls"], url) is None


@pytest.mark.parametrize("key", [*read_properties(CONFIG), *sorted({k for m in MODELS for k in model_config(m)})])
def test_every_server_setting_is_documented(key):
    assert f"`{key}`" in SERVING_PAGE


@pytest.mark.parametrize("settings", [ServerSettings, RouterSettings, ModelSettings])
def test_every_setting_of_the_package_is_documented(settings):
    prefix = settings.model_config["env_prefix"]
    missing = [name for name in settings.model_fields if f"`{prefix}{name.upper()}`" not in SERVING_PAGE]
    assert missing == []


def test_every_setting_of_a_store_is_documented():
    page = (ROOT / "docs/delivery.md").read_text()
    assert [name for name in StoreSettings.model_fields if f"`LOOKALIKE_STORE_{name.upper()}`" not in page] == []


def test_every_setting_of_milvus_is_documented():
    page = (ROOT / "docs/milvus.md").read_text()
    assert [name for name in MilvusSettings.model_fields if f"`LOOKALIKE_MILVUS_{name.upper()}`" not in page] == []


def declared_metrics() -> dict[str, dict[str, object]]:
    declared = yaml.safe_load((ROOT / "docker/metrics.yaml").read_text())
    return {m["name"]: m | {"kind": kind} for group in declared.values() for kind, ms in group.items() for m in ms}


def test_the_packages_metrics_are_declared():
    shapes = {name: (metric["kind"], metric["dimensions"]) for name, metric in declared_metrics().items()}
    assert shapes[metrics.REQUESTS] == ("counter", ["endpoint", "status"])
    assert shapes[metrics.STAGE_SECONDS] == ("histogram", ["stage"])
    assert shapes[metrics.INDEX_ITEMS] == ("gauge", ["version"])


@pytest.mark.parametrize("name", declared_metrics())
def test_every_metric_is_documented(name):
    assert f"`{name}`" in SERVING_PAGE


def test_a_rendered_config_has_the_chosen_addresses_and_every_other_key_unchanged(files, addresses):
    rendered = read_properties(render_config(CONFIG, addresses, files))
    assert rendered["inference_address"] == addresses.base_url
    assert rendered["management_address"] == f"unix:{addresses.run_dir}/management.sock"
    assert rendered["model_store"] == str(files.archives)
    assert rendered.keys() == read_properties(CONFIG).keys()
    assert rendered["enable_model_api"] == "false"


def test_a_config_without_a_needed_key_is_refused(files, addresses):
    with pytest.raises(SetupError, match="management_address"):
        render_config(CONFIG.replace("management_address", "manage_address"), addresses, files)


def test_chosen_ports_differ_and_fixed_ones_are_kept(tmp_path):
    chosen = choose_addresses(ServerSettings(port=0, metrics_port=9123), tmp_path)
    assert len({chosen.port, chosen.metrics_port, *chosen.grpc_ports}) == 4
    assert chosen.metrics_port == 9123


@pytest.fixture
def router(files):
    """The router's archive, of version 3."""
    files.archives.mkdir()
    with zipfile.ZipFile(files.archives / "search.mar", "w") as archive:
        archive.writestr("MAR-INF/MANIFEST.json", json.dumps({"model": {"modelName": "search", "modelVersion": "3"}}))
    return {"search": files.archives / "search.mar"}


def test_the_command_starts_the_jvm_itself_with_models_by_name(files, addresses, router):
    command = java_command(router, addresses, files, ServerSettings(heap_mb=256))
    assert command[0].endswith("java")
    assert "-Xmx256m" in command
    assert command[-1] == "search=search.mar"
    assert "org.pytorch.serve.ModelServer" in command


def test_the_environment_names_the_index_folder_of_server_and_demo(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LOOKALIKE_ROUTER_INDEX_DIR", "some/index")
    files = ServerFiles.of(ROOT)
    assert files.index_dir == tmp_path / "some/index"
    assert not files.has_index()
    files.index_dir.mkdir(parents=True)
    (files.index_dir / "CURRENT").touch()
    assert files.has_index()


def test_without_a_word_of_the_environment_the_index_is_the_checkouts(monkeypatch):
    monkeypatch.delenv("LOOKALIKE_ROUTER_INDEX_DIR", raising=False)
    assert ServerFiles.of(ROOT).index_dir == ROOT / "var/index"


def test_the_environment_names_the_folders_of_an_image(monkeypatch, tmp_path):
    monkeypatch.setenv("LOOKALIKE_SERVER_ARCHIVES_DIR", str(tmp_path / "models"))
    monkeypatch.setenv("LOOKALIKE_SERVER_STATE_DIR", str(tmp_path / "state"))
    files = ServerFiles.of(ROOT)
    assert (files.archives, files.logs) == (tmp_path / "models", tmp_path / "state/logs")


@pytest.mark.parametrize(("age_s", "told"), [(60, False), (-60, True)])
def test_serve_tells_when_an_archive_was_rebuilt_after_the_server_started(tmp_path, age_s, told):
    files, this = ServerFiles.of(tmp_path), ProcessId.of(os.getpid())
    files.archives.mkdir(parents=True)
    state = {"pid": this.pid, "start_ticks": this.start_ticks, "base_url": "http://127.0.0.1:9", "metrics_url": ""}
    paths = {name: str(tmp_path / name) for name in ("management_socket", "run_dir", "log_file")}
    (files.state / "server.json").write_text(json.dumps(state | paths))
    archive = files.archives / "search.mar"
    archive.touch()
    os.utime(archive, (time.time() - age_s,) * 2)
    output = CliRunner().invoke(server_commands, ["serve", "--root", str(tmp_path)]).output
    assert "already running" in output
    assert ("restart to serve the new archives: lookalike stop, lookalike serve" in output) == told


def test_workers_find_the_models_and_the_index_of_their_own_server(files, addresses, monkeypatch):
    monkeypatch.delenv("LOOKALIKE_ROUTER_DETECTOR_URL", raising=False)
    monkeypatch.setenv("LOOKALIKE_ROUTER_INDEX_DIR", "another/index")
    files = dataclasses.replace(files, index_dir=Path("some/index"))
    environment = server_environment(addresses, files, ServerSettings(threads=3))
    assert environment["LOOKALIKE_ROUTER_DETECTOR_URL"] == f"{addresses.base_url}/predictions/detector"
    assert environment["LOOKALIKE_ROUTER_INDEX_DIR"] == str(Path("some/index").resolve())
    assert environment["OMP_NUM_THREADS"] == "3"


@pytest.mark.parametrize(
    ("way", "cores", "asked", "workers", "batch", "threads"),
    [
        ("in_process", 1, 0, 1, 1, 1),
        ("in_process", 2, 0, 2, 1, 2),
        ("in_process", 6, 0, 6, 1, 2),
        ("in_process", 64, 0, 8, 1, 16),
        ("in_process", 6, 3, 3, 1, 4),
        ("http", 6, 0, 1, 8, 6),
        ("http", 6, 2, 2, 8, 6),
    ],
)
def test_a_router_with_the_models_has_workers_of_one_search_each_and_one_without_waits_for_many(
    files, addresses, router, monkeypatch, way, cores, asked, workers, batch, threads
):
    monkeypatch.setenv("LOOKALIKE_ROUTER_MODELS", way)
    monkeypatch.delenv("LOOKALIKE_ROUTER_MODEL_THREADS", raising=False)
    monkeypatch.setattr(server_config, "available_cores", lambda: cores)
    settings = ServerSettings(router_workers=asked)
    java_command(router, addresses, files, settings)
    told = json.loads(read_properties((addresses.run_dir / "config.properties").read_text())["models"])
    assert told == {"search": {"3": {"minWorkers": workers, "maxWorkers": workers, "batchSize": batch}}}
    assert server_environment(addresses, files, settings)["LOOKALIKE_ROUTER_MODEL_THREADS"] == str(threads)


def test_threads_that_the_operator_asks_for_hold_in_the_router_too(files, addresses, monkeypatch):
    monkeypatch.setenv("LOOKALIKE_MODEL_THREADS", "3")
    monkeypatch.delenv("LOOKALIKE_ROUTER_MODEL_THREADS", raising=False)
    assert server_environment(addresses, files, ServerSettings())["LOOKALIKE_ROUTER_MODEL_THREADS"] == "3"


@pytest.mark.parametrize(("uri", "workers"), [("catalogue.db", 1), ("http://milvus:19530", 2)])
def test_a_milvus_file_is_left_to_one_worker(monkeypatch, uri, workers):
    monkeypatch.setattr(server_config, "available_cores", lambda: 2)
    monkeypatch.setenv("LOOKALIKE_ROUTER_MODELS", "in_process")
    monkeypatch.setenv("LOOKALIKE_ROUTER_INDEX_ENGINE", "milvus")
    monkeypatch.setenv("LOOKALIKE_MILVUS_URI", uri)
    assert router_workers(ServerSettings()) == workers


def test_a_server_without_the_router_is_told_nothing_of_it(files, addresses):
    java_command({"detector": files.archives / "detector.mar"}, addresses, files, ServerSettings())
    assert "models" not in read_properties((addresses.run_dir / "config.properties").read_text())


def test_what_the_operator_sets_in_the_environment_wins(files, addresses, monkeypatch):
    monkeypatch.setenv("LOOKALIKE_ROUTER_DETECTOR_URL", "http://detector/predictions/detector")
    assert server_environment(addresses, files, ServerSettings())["LOOKALIKE_ROUTER_DETECTOR_URL"].startswith(
        "http://detector/"
    )


def test_the_router_holds_the_models_unless_a_gpu_or_a_url_speaks_against_it(files, addresses, monkeypatch, tmp_path):
    def way() -> str:
        return server_environment(addresses, files, ServerSettings())["LOOKALIKE_ROUTER_MODELS"]

    for name in [name for name in os.environ if name.startswith("LOOKALIKE_ROUTER_")]:
        monkeypatch.delenv(name)
    monkeypatch.setattr(server_config, "gpu_is_there", lambda: False)
    assert way() == "in_process"
    monkeypatch.setattr(server_config, "gpu_is_there", lambda: True)
    assert way() == "http"
    monkeypatch.setenv("LOOKALIKE_MODEL_DEVICE", "cpu")
    assert way() == "in_process"
    monkeypatch.delenv("LOOKALIKE_MODEL_DEVICE")
    monkeypatch.setattr(server_config, "is_installed", lambda runtime: False)
    assert way() == "in_process"
    monkeypatch.setattr(server_config, "is_installed", lambda runtime: True)
    monkeypatch.setenv("LOOKALIKE_ROUTER_MODELS", "in_process")
    assert way() == "in_process"
    monkeypatch.delenv("LOOKALIKE_ROUTER_MODELS")
    monkeypatch.setattr(server_config, "gpu_is_there", lambda: False)
    monkeypatch.setenv("LOOKALIKE_ROUTER_EMBEDDER_URL", "http://embedder/predictions/embedder")
    assert way() == "http"


@pytest.mark.parametrize(("models", "served"), [("", ["a", "b"]), ("b", ["b"]), ("b, a", ["b", "a"])])
def test_a_server_serves_the_models_that_are_named_or_all(models, served):
    archives = {"a": Path("a.mar"), "b": Path("b.mar")}
    assert list(ServerSettings(models=models).chosen(archives)) == served


def test_a_model_that_is_not_there_is_named():
    with pytest.raises(SetupError, match=r"LOOKALIKE_SERVER_MODELS: no model c"):
        ServerSettings(models="a,c").chosen({"a": Path("a.mar")})
