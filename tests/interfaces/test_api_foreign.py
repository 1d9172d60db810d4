"""Programs that speak to other servers, speaking to this one: `webuiapi` for A1111's web UI, and OpenAI's shape."""

from __future__ import annotations

import base64
import json
import socket
import threading
import time
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn
import webuiapi
from PIL import Image
from support import foreign_payloads
from support.checkpoints import tiny_sd
from support.pictures import encoded

from studio.core.settings import Settings
from studio.interfaces.api import app as api

ANN, BOB = "ann-has-a-long-key-1234", "bob-has-a-long-key-5678"


@pytest.fixture(scope="module")
def port(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """A server that really listens, with a model of 64 pixels."""
    home: Path = tmp_path_factory.mktemp("home")
    tiny_sd(home / "models" / "tiny")
    app = api.create(Settings(home=home, model="tiny", api_key=f"{ANN},{BOB}", _env_file=None))
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        number: int = probe.getsockname()[1]
    server = uvicorn.Server(uvicorn.Config(app, port=number, log_level="error"))
    thread = threading.Thread(target=server.run)
    thread.start()
    deadline = time.monotonic() + 60
    while not server.started:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    yield number
    server.should_exit = True
    thread.join(20)
    app.state.studio.close()


@pytest.fixture
def web(port: int) -> Any:
    client = webuiapi.WebUIApi(host="127.0.0.1", port=port)
    client.set_auth("ann", ANN)
    return client


def test_webuiapi_draws_and_reads_what_it_drew(web: Any) -> None:
    result = web.txt2img(prompt="red hair", negative_prompt="hat", seed=11, steps=2, cfg_scale=3, width=64, height=64,
                         batch_size=2, sampler_name="DPM++ 2M", scheduler="Karras")  # fmt: skip
    assert [image.size for image in result.images] == [(64, 64)] * 2
    assert (result.info["all_seeds"], result.info["steps"]) == ([11, 12], 2)
    assert result.info["sampler_name"] == "DPM++ 2M Karras"
    read = web.png_info(result.image)
    assert "red hair" in read.info
    assert "Seed: 11" in read.info
    assert read.parameters["seed"] == 11


def test_a_size_that_the_model_was_not_made_for_is_enlarged(web: Any) -> None:
    result = web.txt2img(prompt="red hair", seed=3, steps=1, width=512, height=512)
    assert result.image.size == (512, 512)
    assert (result.info["width"], result.info["height"]) == (512, 512)
    assert "Size: 64x64" in web.png_info(result.image).info  # drawn so, four times by the upscaler, the rest a filter
    assert "Postprocess upscale by: 4" in web.png_info(result.image).info


def test_webuiapi_starts_from_a_picture_and_enlarges(web: Any) -> None:
    start = Image.linear_gradient("L").resize((64, 64)).convert("RGB")
    result = web.img2img(images=[start], prompt="blue", steps=4, seed=5, denoising_strength=0.5, width=64, height=64)
    assert result.image.size == (64, 64)
    larger = web.extra_single_image(start, upscaling_resize=2)
    assert larger.image.size == (128, 128)
    mask = Image.new("L", (64, 64))
    mask.paste(255, (0, 0, 64, 32))
    for invert, box in ((0, (0, 40, 64, 64)), (1, (0, 0, 64, 24))):
        [changed] = web.img2img(images=[start], mask_image=mask, inpainting_mask_invert=invert, inpaint_full_res=False,
                                prompt="blue", steps=4, seed=6, mask_blur=1).images  # fmt: skip
        assert changed.crop(box).tobytes() == start.crop(box).tobytes()  # what isn't masked stays
        assert changed.convert("RGB").tobytes() != start.tobytes()


def test_webuiapi_finds_what_there_is(web: Any) -> None:
    assert "tiny" in web.util_get_model_names()
    web.util_set_model("tiny")
    assert web.util_get_current_model() == "tiny"
    assert "DPM++ 2M" in web.util_get_sampler_names()
    assert "Lanczos" in [one["name"] for one in web.get_upscalers()]
    assert web.get_loras() == []
    assert web.get_progress()["progress"] == 0
    assert web.interrupt() == {}


def test_interrupt_stops_the_caller_s_own_job_only(port: int, web: Any) -> None:
    bob = httpx.Client(base_url=f"http://127.0.0.1:{port}", headers={"Authorization": f"Bearer {BOB}"}, timeout=120)
    id = bob.post("/v1/jobs", json={"model": "tiny", "prompt": "long", "steps": 50, "count": 64}).json()["id"]
    web.interrupt()
    assert bob.get(f"/v1/jobs/{id}").json()["state"] in ("queued", "running")
    assert 0 <= bob.get("/sdapi/v1/progress").json()["progress"] <= 1
    bob.post("/sdapi/v1/interrupt")
    deadline = time.monotonic() + 60
    while bob.get(f"/v1/jobs/{id}").json()["state"] != "cancelled":
        assert time.monotonic() < deadline
        time.sleep(0.05)
    bob.close()


def asking(port: int) -> httpx.Client:
    return httpx.Client(base_url=f"http://127.0.0.1:{port}", auth=("me", ANN), timeout=120)


def first_picture(answer: httpx.Response) -> Image.Image:
    assert answer.status_code == 200, answer.text
    assert json.loads(answer.json()["info"])["infotexts"][0]
    with Image.open(BytesIO(base64.b64decode(answer.json()["images"][0]))) as image:
        return image.convert("RGB")


@pytest.mark.parametrize("asks", [foreign_payloads.SILLYTAVERN_ASKS, foreign_payloads.KRITA_ASKS])
def test_what_programs_ask_for_first_is_there(port: int, asks: dict[str, type]) -> None:
    with asking(port) as client:
        for path, kind in asks.items():
            assert isinstance(client.get(path).raise_for_status().json(), kind), path
    assert httpx.get(f"http://127.0.0.1:{port}/queue/status").status_code == 401


def test_what_sillytavern_sends_is_drawn(port: int) -> None:
    """Fields that only other programs know, numbers beyond ours."""
    body = foreign_payloads.SILLYTAVERN
    with asking(port) as client:
        assert first_picture(client.post("/sdapi/v1/txt2img", json=body)).size == (512, 768)
        for wrong, status in (({"batch_size": 1000}, 422), ({"prompt": "x" * 5000}, 422), ({"override_settings": {
                "sd_model_checkpoint": "/etc/shadow"}}, 404)):  # fmt: skip
            assert client.post("/sdapi/v1/txt2img", json=body | wrong).status_code == status
    assert httpx.post(f"http://127.0.0.1:{port}/sdapi/v1/txt2img", json=body, auth=("st", "no")).status_code == 401


def test_what_krita_sends_is_drawn(port: int) -> None:
    canvas = Image.linear_gradient("L").resize((64, 64)).convert("RGB")
    mask = Image.new("L", (64, 64))
    mask.paste(255, (8, 8, 40, 40))
    sent = {"init_images": ["data:image/png;base64," + png(canvas)]}
    with asking(port) as client:
        drawn = client.post("/sdapi/v1/txt2img", json=foreign_payloads.KRITA_TXT2IMG)
        assert first_picture(drawn).size == (128, 96)
        changed = client.post("/sdapi/v1/img2img", json=foreign_payloads.KRITA_IMG2IMG | sent | {"steps": 4})
        assert first_picture(changed).size == (128, 96)
        filled = first_picture(
            client.post(
                "/sdapi/v1/img2img", json=foreign_payloads.KRITA_INPAINT | sent | {"mask": png(mask), "steps": 4}
            )
        )
    assert filled.size == (64, 64)
    assert filled.crop((0, 56, 64, 64)).tobytes() == canvas.crop((0, 56, 64, 64)).tobytes()
    assert filled.tobytes() != canvas.tobytes()


def png(image: Image.Image) -> str:
    return base64.b64encode(encoded(image)).decode()


def test_openai_s_shape(port: int) -> None:
    client = httpx.Client(base_url=f"http://127.0.0.1:{port}", headers={"Authorization": f"Bearer {ANN}"}, timeout=120)
    body = {"model": "dall-e-3", "prompt": "red hair", "n": 2, "size": "128x128", "seed": 4, "quality": "hd"}
    answer = client.post("/v1/images/generations", json=body)
    assert answer.status_code == 200, answer.text
    sizes = []
    for one in answer.json()["data"]:
        with Image.open(BytesIO(base64.b64decode(one["b64_json"]))) as image:
            sizes.append(image.size)
    assert sizes == [(128, 128)] * 2
    urls = client.post("/v1/images/generations", json=body | {"response_format": "url"}).json()["data"]
    assert client.get(urls[0]["url"]).headers["content-type"] == "image/png"
    assert client.post("/v1/images/generations", json=body | {"size": "huge"}).status_code == 422
    assert client.post("/v1/images/generations", json=body | {"model": "/etc"}).status_code == 404
    client.close()
