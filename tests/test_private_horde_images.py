"""Images of the private horde over Flask's test client: what clients and workers see of them."""

from __future__ import annotations

import base64
import io
import json
from typing import Any
from urllib.parse import urlsplit
from zlib import compress, crc32

import pytest
from werkzeug.test import TestResponse

from horde_proxy.pictures import Raster
from tests.test_private_horde import ALICE, ANONYMOUS, BOB, OWNER, World, refused
from tests.test_private_horde_webhooks import URL, Receiver

IMAGE_ASYNC = "/api/v2/generate/async"
IMAGE_CHECK = "/api/v2/generate/check/"
IMAGE_STATUS = "/api/v2/generate/status/"
IMAGE_POP = "/api/v2/generate/pop"
IMAGE_SUBMIT = "/api/v2/generate/submit"
SD1, SDXL, INPAINTING = "stable_diffusion", "SDXL 1.0", "Deliberate Inpainting"
REGEN = "AI Horde Worker reGen:13.0.0:https://example.invalid/x"
PICTURE = Raster.plain(64, 64, (10, 200, 30)).encoded("png")


class Studio(World):
    """A world whose workers make images, and what its clients do."""

    def order(self, key: str = ALICE, *, n: int = 1, params: Any = None, **fields: Any) -> str:
        """Ask for images; the id of the request."""
        response = self.try_order(key, n=n, params=params, **fields)
        assert response.status_code == 202, response.json
        return str(response.get_json()["id"])

    def try_order(
        self, key: str | None = ALICE, *, n: int = 1, params: Any = None, **fields: Any
    ) -> TestResponse:
        params = {"n": n, "steps": 20, "seed": "42", "cfg_scale": 7.0, **(params or {})}
        body = {"prompt": "a lighthouse ### blurry", "models": [SD1], "params": params}
        return self.post(IMAGE_ASYNC, key, {**body, "nsfw": False, **fields})

    def try_take(
        self, name: str = "painter", key: str | None = OWNER, **offer: Any
    ) -> TestResponse:
        offer = {
            "name": name,
            "models": [SD1, INPAINTING, SDXL],
            "max_pixels": 1_048_576,
            "bridge_agent": REGEN,
            "allow_controlnet": True,
            "allow_lora": True,
            **offer,
        }
        return self.post(IMAGE_POP, key, offer)

    def take(self, name: str = "painter", **offer: Any) -> Any:
        """Pop images; the answer."""
        response = self.try_take(name, **offer)
        assert response.status_code == 200, response.json
        return response.get_json()

    def follow(self, link: str, method: str = "GET", data: bytes = b"") -> TestResponse:
        parts = urlsplit(link)
        return self.client.open(f"{parts.path}?{parts.query}", method=method, data=data)

    def hand_in(self, job_id: str, generation: str = "R2", **result: Any) -> TestResponse:
        body = {"id": job_id, "generation": generation, "seed": 42, **result}
        return self.post(IMAGE_SUBMIT, OWNER, body)

    def make(self, data: bytes = PICTURE, **offer: Any) -> Any:
        """Take all images of a request and deliver them; the answer of the pop."""
        job = self.take(**offer)
        for number, job_id in enumerate(job["ids"]):
            assert self.follow(job["r2_uploads"][number], "PUT", data).status_code == 200
            response = self.hand_in(job_id, seed=42 + number)
            assert response.status_code == 200, response.json
        return job

    def look(self, request_id: str) -> Any:
        response = self.client.get(IMAGE_STATUS + request_id)
        assert response.status_code == 200, response.json
        return response.json


@pytest.fixture
def studio() -> Studio:
    return Studio()


def in_base64(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")


def test_an_image_goes_from_the_worker_to_the_client(studio: Studio) -> None:
    studio.take()
    request_id = studio.order()
    check = studio.client.get(IMAGE_CHECK + request_id).get_json()
    assert (check["waiting"], check["queue_position"], check["is_possible"]) == (1, 1, True)
    job = studio.make()
    assert job["ttl"] == 150
    assert job["payload"] == {
        "prompt": "a lighthouse ### blurry",
        "ddim_steps": 20,
        "n_iter": 1,
        "use_nsfw_censor": True,
        "seed": "42",
        "image_is_control": False,
        "return_control_map": False,
        "sampler_name": "k_euler_a",
        "cfg_scale": 7.0,
        "height": 512,
        "width": 512,
        "karras": True,
        "tiling": False,
        "hires_fix": False,
        "transparent": False,
    }
    status = studio.look(request_id)
    assert status["done"] is True
    [image] = status["generations"]
    assert (image["seed"], image["id"], image["state"]) == ("42", job["id"], "ok")
    picture = studio.follow(image["img"])
    assert (picture.status_code, picture.content_type) == (200, "image/webp")
    assert Raster.read(picture.data).size == (64, 64)


def test_the_links_begin_with_the_address_that_the_caller_used(studio: Studio) -> None:
    studio.order()
    link = studio.take()["r2_upload"]
    assert link.startswith("http://localhost/api/v2/pictures/")


def test_several_images_of_a_request_are_popped_at_once_up_to_the_pixels_of_the_worker(
    studio: Studio,
) -> None:
    studio.order(n=6)
    job = studio.take(amount=10)
    assert (len(job["ids"]), job["payload"]["n_iter"], len(job["r2_uploads"])) == (4, 4, 4)
    rest = studio.take("second", amount=10)
    assert (len(rest["ids"]), rest["payload"]["seed"]) == (2, "46")


@pytest.mark.parametrize(
    ("seed", "expected"),
    [("42", "42"), ("4294967297", "1"), ("a fox", "1325052956"), (None, None)],
)
def test_a_seed_is_a_number_of_32_bits(studio: Studio, seed: str | None, expected: Any) -> None:
    params = {} if seed is None else {"seed": seed}
    studio.post(IMAGE_ASYNC, ALICE, {"prompt": "x", "params": params, "nsfw": False})
    number = studio.take()["payload"]["seed"]
    assert number.isdecimal()
    assert expected in (None, number)


def test_each_image_has_its_own_seed_as_far_apart_as_the_client_says(studio: Studio) -> None:
    studio.order(n=3, params={"seed_variation": 100})
    seeds = [studio.take(amount=3)["payload"]["seed"] for _ in range(3)]
    assert seeds == ["42", "142", "242"]


def test_base64_comes_in_the_status_without_r2(studio: Studio) -> None:
    request_id = studio.order(r2=False)
    studio.hand_in(studio.take()["id"], in_base64(PICTURE))
    [image] = studio.look(request_id)["generations"]
    assert Raster.read(base64.b64decode(image["img"])).size == (64, 64)


def test_a_cancelled_request_gives_its_images_once_more(studio: Studio) -> None:
    request_id = studio.order(n=2)
    job = studio.make()
    link = studio.look(request_id)["generations"][0]["img"]
    [image] = studio.client.delete(IMAGE_STATUS + request_id).get_json()["generations"]
    assert image["id"] == job["id"]
    assert Raster.read(base64.b64decode(image["img"])).size == (64, 64)
    assert studio.follow(link).status_code == 404
    assert refused(studio.client.get(IMAGE_STATUS + request_id)) == (404, "RequestNotFound")


def test_an_image_of_a_cancelled_request_earns_its_reward_and_is_not_kept(studio: Studio) -> None:
    request_id = studio.order()
    job = studio.take()
    studio.client.delete(IMAGE_STATUS + request_id)
    assert studio.follow(job["r2_upload"], "PUT", PICTURE).status_code == 200
    assert studio.hand_in(job["id"]).get_json()["reward"] > 5


# Links and uploads


def test_a_link_works_for_its_picture_its_use_and_half_an_hour_only(studio: Studio) -> None:
    studio.order(n=2)
    first, second = studio.take(amount=2)["r2_uploads"]
    query = urlsplit(first).query
    assert studio.follow(first).status_code == 403
    other = f"{urlsplit(second).path}?{query}"
    assert studio.client.put(other, data=PICTURE).status_code == 403
    assert studio.client.put(urlsplit(first).path, data=PICTURE).status_code == 403
    forged = first.replace("expires=", "expires=9")
    assert studio.follow(forged, "PUT", PICTURE).status_code == 403
    assert studio.follow(first, "PUT", PICTURE).status_code == 200
    studio.now += 1801
    assert studio.follow(second, "PUT", PICTURE).status_code == 403


def test_an_upload_may_be_sent_again_but_not_changed(studio: Studio) -> None:
    studio.order()
    job = studio.take()
    other = Raster.plain(64, 64, (0, 0, 0)).encoded("png")
    assert studio.follow(job["r2_upload"], "PUT", PICTURE).status_code == 200
    assert studio.follow(job["r2_upload"], "PUT", PICTURE).status_code == 200
    assert refused(studio.follow(job["r2_upload"], "PUT", other)) == (403, "Forbidden")
    studio.hand_in(job["id"])
    assert studio.follow(job["r2_upload"], "PUT", PICTURE).status_code == 404


@pytest.mark.parametrize("data", [b"", b"<svg/>", b"not a picture", PICTURE[:40]])
def test_an_upload_that_is_no_picture_is_refused_and_the_job_goes_on(
    studio: Studio, data: bytes
) -> None:
    studio.order()
    job = studio.take()
    assert refused(studio.follow(job["r2_upload"], "PUT", data)) == (400, "BadRequest")
    assert refused(studio.hand_in(job["id"])) == (400, "BadRequest")
    assert studio.follow(job["r2_upload"], "PUT", PICTURE).status_code == 200
    assert studio.hand_in(job["id"]).status_code == 200


def test_a_picture_that_webp_cannot_hold_is_refused(studio: Studio) -> None:
    # Its header alone decides: no Raster has such a side.
    header = b"IHDR" + (16_384).to_bytes(4, "big") + (1).to_bytes(4, "big") + b"\x08\0\0\0\0"
    rows = compress(b"\0" * 16_385)
    file = b"\x89PNG\r\n\x1a\n"
    for chunk in (header, b"IDAT" + rows, b"IEND"):
        file += (len(chunk) - 4).to_bytes(4, "big") + chunk + crc32(chunk).to_bytes(4, "big")
    studio.order()
    link = studio.take()["r2_upload"]
    assert refused(studio.follow(link, "PUT", file)) == (400, "BadRequest")


def test_a_job_with_bad_base64_goes_to_another_worker(studio: Studio) -> None:
    request_id = studio.order()
    assert refused(studio.hand_in(studio.take()["id"], "!!")) == (400, "BadRequest")
    status = studio.look(request_id)
    assert (status["waiting"], status["restarted"]) == (1, 1)


def test_an_upload_of_too_many_bytes_is_not_read(studio: Studio) -> None:
    studio.order()
    link = studio.take()["r2_upload"]
    assert studio.follow(link, "PUT", b"x" * 30_000_001).status_code == 413


def test_the_body_of_a_wrong_link_is_not_read(studio: Studio) -> None:
    class Unread(io.BytesIO):
        def read(self, *_: Any) -> bytes:
            raise AssertionError("the body was read")

    path = "/api/v2/pictures/x.webp?expires=1&signature=x"
    response = studio.client.put(path, input_stream=Unread(), content_length=1_000_000)
    assert refused(response) == (403, "Forbidden")


def test_a_picture_leaves_without_its_metadata(studio: Studio) -> None:
    request_id = studio.order()
    chunk = b"tEXtplace\0Berlin"
    text = (len(chunk) - 4).to_bytes(4, "big") + chunk + crc32(chunk).to_bytes(4, "big")
    # After the header: 8 bytes of signature and the 25 of IHDR.
    marked = PICTURE[:33] + text + PICTURE[33:]
    job = studio.take()
    studio.follow(job["r2_upload"], "PUT", marked)
    studio.hand_in(job["id"])
    [image] = studio.look(request_id)["generations"]
    assert b"Berlin" not in studio.follow(image["img"]).data


def test_the_oldest_pictures_go_where_there_are_too_many_bytes() -> None:
    size = len(Raster.plain(64, 64, (10, 200, 30)).encoded("webp", quality=95))
    studio = Studio()
    studio.horde.most_picture_bytes = 2 * size
    ids = []
    for _ in range(3):
        ids.append(studio.order())
        studio.make()
        studio.now += 1
    images = [studio.look(request_id)["generations"][0]["img"] for request_id in ids]
    assert images[0] == "N/A"
    assert [studio.follow(link).status_code for link in images[1:]] == [200, 200]


# Sources


def test_a_source_and_its_mask_come_to_the_worker_as_links(studio: Studio) -> None:
    source = Raster.plain(64, 64, (1, 2, 3)).encoded("png")
    mask = Raster.of_pixels(2, 1, b"\xff\xff\xff\0\0\0").encoded("png")
    studio.order(
        models=[INPAINTING],
        source_image=in_base64(source),
        source_mask=in_base64(mask),
        source_processing="inpainting",
    )
    job = studio.take()
    assert (job["model"], job["source_processing"]) == (INPAINTING, "inpainting")
    assert Raster.read(studio.follow(job["source_image"]).data).size == (64, 64)
    assert Raster.read(studio.follow(job["source_mask"]).data).pixels() == b"\xff\xff\xff\0\0\0"


@pytest.mark.parametrize(
    ("fields", "code"),
    [
        ({"source_image": "http://127.0.0.1/x.png"}, "SourceImageUrlInvalid"),
        ({"source_image": "HTTPS://example.com/x.png"}, "SourceImageUrlInvalid"),
        ({"source_image": in_base64(b"not an image")}, "ImageValidationFailed"),
        ({"source_image": in_base64(PICTURE[:40])}, "ImageValidationFailed"),
        ({"source_mask": in_base64(PICTURE)}, "SourceMaskUnnecessary"),
        (
            {"source_image": in_base64(PICTURE), "source_processing": "inpainting"},
            "InpaintingMissingMask",
        ),
        ({"source_image": in_base64(b"x" * 5_000_001)}, "ImageValidationFailed"),
    ],
)
def test_a_source_that_cannot_be_used_is_refused(
    studio: Studio, fields: dict[str, Any], code: str
) -> None:
    assert refused(studio.try_order(**fields)) == (400, code)


@pytest.mark.parametrize(
    ("params", "fields", "code"),
    [
        ({"cfg_scale": 7.123}, {}, "BadCFGDecimals"),
        ({"loras": [{"name": "x"}] * 6}, {}, "TooManyLoras"),
        ({"tis": [{"name": "x"}] * 21}, {}, "TooManyTIs"),
        ({"loras": [{"name": "abc", "is_version": True}]}, {}, "BadLoraVersion"),
        ({"post_processing": ["NMKD_Siax", "4xNomos8kSC"]}, {}, "TooManyUpscalers"),
        ({"control_type": "canny"}, {}, "ControlNetSourceMissing"),
        ({"control_type": "canny"}, {"models": [SDXL]}, "ControlNetMismatch"),
        ({"hires_fix": True}, {"models": ["Flux.1-Schnell"]}, "HiResMismatch"),
        ({"transparent": True}, {"models": ["Flux.1-Schnell"]}, "InvalidTransparencyModel"),
        ({"workflow": "qr_code"}, {}, "MissingExtraTexts."),
        ({"extra_texts": [{"text": "x", "reference": "yes"}]}, {}, "InvalidExtraTexts."),
        ({"special": {"a": 1}}, {}, "BadRequest"),
        ({}, {"source_processing": "remix"}, "InvalidRemix"),
        ({}, {"models": ["GFPGAN"]}, "UnexpectedModelName"),
    ],
)
def test_what_does_not_fit_together_is_refused_with_its_code(
    studio: Studio, params: Any, fields: dict[str, Any], code: str
) -> None:
    assert refused(studio.try_order(params=params, **fields)) == (400, code)


# Matching


@pytest.mark.parametrize(
    ("fields", "offer", "reason"),
    [
        ({"params": {"width": 1024}}, {"max_pixels": 262_144}, "max_pixels"),
        ({"models": [SD1]}, {"models": [SDXL]}, "models"),
        ({"params": {"loras": [{"name": "1"}]}}, {"allow_lora": False}, "lora"),
        ({"source_image": in_base64(PICTURE)}, {"allow_img2img": False}, "img2img"),
        (
            {
                "source_image": in_base64(PICTURE),
                "source_mask": in_base64(PICTURE),
                "source_processing": "inpainting",
            },
            {"allow_painting": False},
            "painting",
        ),
        (
            {"source_image": in_base64(PICTURE), "params": {"control_type": "canny"}},
            {"allow_controlnet": False},
            "controlnet",
        ),
        (
            {"params": {"post_processing": ["GFPGAN"]}},
            {"allow_post_processing": False},
            "post-processing",
        ),
        ({"nsfw": True}, {"nsfw": False}, "nsfw"),
        ({"prompt": "a blackword"}, {"blacklist": ["blackword"]}, "blacklist"),
        ({}, {"bridge_agent": "AI Horde Worker:1:x"}, "bridge_version"),
        ({}, {"require_upfront_kudos": True}, "kudos"),
        ({"params": {"steps": 50}}, {"limit_max_steps": True}, "step_count"),
        ({"slow_workers": False}, {}, "performance"),
        ({}, {"extra_slow_worker": True}, "performance"),
    ],
)
def test_a_pop_says_why_it_took_nothing(
    studio: Studio, fields: dict[str, Any], offer: dict[str, Any], reason: str
) -> None:
    studio.order(**fields)
    job = studio.take(**offer)
    assert job["id"] is None
    assert {name: count for name, count in job["skipped"].items() if count} == {reason: 1}


def test_a_request_that_names_workers_goes_to_no_other(studio: Studio) -> None:
    studio.take()
    worker_id = studio.worker("painter")["id"]
    studio.order(workers=[worker_id])
    assert studio.take("second")["skipped"]["worker_id"] == 1
    assert studio.take()["id"] is not None


def test_texts_and_images_do_not_get_into_each_others_queue(studio: Studio) -> None:
    studio.order(models=[])
    studio.submit(models=[])
    assert studio.performance()["queued_requests"] == 1
    assert studio.performance()["queued_text_requests"] == 1
    assert len(studio.pop()) == 1
    assert studio.pop() == []
    assert len(studio.take()["ids"]) == 1
    assert refused(studio.try_take("manual-text-1")) == (400, "WorkerNameAlreadyExists")


def test_a_request_for_any_model_does_not_get_one_for_inpainting(studio: Studio) -> None:
    studio.order(models=[])
    assert studio.take(models=[INPAINTING])["id"] is None
    assert studio.take("second", models=[INPAINTING, SDXL])["model"] == SDXL


def test_the_time_for_an_image_grows_with_its_size_and_steps(studio: Studio) -> None:
    studio.order(models=[SDXL], params={"width": 1024, "height": 1024, "steps": 30})
    assert studio.take()["ttl"] == 270


def test_a_late_image_goes_to_another_worker(studio: Studio) -> None:
    request_id = studio.order()
    job = studio.take()
    studio.now += 151
    assert refused(studio.hand_in(job["id"])) == (400, "AbortedGen")
    assert studio.look(request_id)["restarted"] == 1
    studio.make(name="second")
    assert len(studio.look(request_id)["generations"]) == 1


# Kudos


@pytest.mark.parametrize(
    ("n", "params", "kudos"),
    [
        (1, {}, 8.0),
        (2, {"width": 1024, "height": 1024}, 36.0),
        (1, {"loras": [{"name": "1234"}]}, 11.0),
    ],
)
def test_a_dry_run_says_what_images_cost(studio: Studio, n: int, params: Any, kudos: float) -> None:
    response = studio.try_order(n=n, params=params, dry_run=True)
    assert (response.status_code, response.json) == (200, {"kudos": kudos})


def test_an_image_is_paid_by_who_wanted_it_to_who_made_it(studio: Studio) -> None:
    before = studio.user()["kudos"]
    studio.order()
    assert studio.user()["kudos"] == pytest.approx(before - 1)
    job = studio.take()
    studio.follow(job["r2_upload"], "PUT", PICTURE)
    reward = studio.hand_in(job["id"]).get_json()["reward"]
    assert reward == pytest.approx(5.9, abs=0.3)
    assert studio.user()["kudos"] == pytest.approx(before - 2 - reward)
    assert studio.user(OWNER)["kudos"] == pytest.approx(reward)
    assert studio.user()["records"]["request"]["image"] == 1
    assert studio.user(OWNER)["records"]["fulfillment"]["image"] == 1


@pytest.mark.parametrize(
    ("params", "fields"),
    [
        ({"width": 2048, "height": 2048}, {}),
        ({"steps": 51}, {}),
        ({"sampler_name": "lcm", "steps": 11}, {}),
        ({}, {"slow_workers": False}),
    ],
)
def test_a_large_image_needs_its_kudos_beforehand(params: Any, fields: dict[str, Any]) -> None:
    studio = Studio(upfront_kudos=True)
    response = studio.try_order(ANONYMOUS, params=params, **fields)
    assert refused(response) == (403, "KudosUpfront")
    assert "for requests over 1024x1024 or over 50 steps" in response.get_json()["message"]
    studio.order(ALICE, params=params, **fields)


def test_a_large_image_is_made_smaller_where_the_client_allows_that() -> None:
    studio = Studio(upfront_kudos=True)
    studio.order(
        BOB,
        params={"width": 2048, "height": 1024, "steps": 100, "sampler_name": "k_heun"},
        allow_downgrade=True,
    )
    payload = studio.take(max_pixels=4_000_000)["payload"]
    assert (payload["width"], payload["height"], payload["ddim_steps"]) == (1472, 704, 25)


def test_a_shared_key_has_limits_for_images(studio: Studio) -> None:
    limits = {"max_image_pixels": 512 * 512, "max_image_steps": 20}
    headers = {"apikey": ALICE}
    key = studio.client.put("/api/v2/sharedkeys", json=limits, headers=headers).get_json()["id"]
    studio.order(key)
    for params in ({"width": 1024}, {"steps": 21}):
        assert refused(studio.try_order(key, params=params)) == (403, "SharedKeyLimitExceeded")


# Statistics and limits


def test_models_and_workers_of_images_are_listed_with_their_speeds(studio: Studio) -> None:
    studio.order(n=2)
    job = studio.take()
    studio.now += 2
    studio.follow(job["r2_upload"], "PUT", PICTURE)
    studio.hand_in(job["id"])
    pixelsteps = 512 * 512 * 20
    [model] = [m for m in studio.get("status/models?type=image").get_json() if m["name"] == SD1]
    assert model == {
        "performance": pixelsteps / 2,
        "queued": pixelsteps,
        "jobs": 1.0,
        "eta": 2,
        "type": "image",
        "name": SD1,
        "count": 1,
    }
    [worker] = studio.get("workers?type=image").get_json()
    assert worker["performance"] == "2.6 megapixelsteps per second"
    assert (worker["max_pixels"], worker["img2img"], worker["lora"]) == (1_048_576, True, True)
    assert studio.get("workers?type=text").get_json() == []
    assert studio.get("status/models?type=text").get_json() == []
    assert studio.get("stats/img/totals").get_json()["hour"] == {"images": 1, "ps": pixelsteps}
    assert studio.get("stats/img/models").get_json()["day"] == {SD1: 1}
    assert studio.get("stats/text/totals").get_json()["hour"] == {"requests": 0, "tokens": 0}
    assert studio.performance()["past_minute_megapixelsteps"] == 5.24


def test_a_status_may_be_called_ten_times_a_minute_and_a_check_ten_times_a_second(
    studio: Studio,
) -> None:
    studio.horde.rate_limits = True
    request_id = studio.order()
    codes = [studio.client.get(IMAGE_STATUS + request_id).status_code for _ in range(11)]
    assert codes == [200] * 10 + [429]
    codes = [studio.client.get(IMAGE_CHECK + request_id).status_code for _ in range(11)]
    assert codes == [200] * 10 + [429]


def test_the_status_of_a_text_is_no_status_of_an_image(studio: Studio) -> None:
    request_id = studio.submit()
    assert refused(studio.client.get(IMAGE_CHECK + request_id)) == (404, "RequestNotFound")
    assert studio.client.get(f"/api/v2/generate/text/status/{studio.order()}").status_code == 404


def test_maintenance_refuses_images(studio: Studio) -> None:
    studio.horde.maintenance = True
    assert refused(studio.try_order()) == (400, "MaintenanceMode")


def test_the_queue_says_why_an_image_waits(studio: Studio) -> None:
    studio.take(max_pixels=262_144)
    studio.order(params={"width": 1024})
    [entry] = studio.horde.queue(ALICE)["requests"]
    assert entry["reasons"] == [
        "painter makes images of at most 262,144 pixels, and it needs 524,288."
    ]


# Beyond one request


def test_a_webhook_gets_a_link_to_the_image(studio: Studio) -> None:
    receiver = Receiver(studio)
    request_id = studio.order(webhook=URL)
    job = studio.make()
    [(url, content, _)] = receiver.calls
    sent = json.loads(content)
    assert (url, sent["id"], sent["request"]) == (URL, job["id"], request_id)
    assert (sent["seed"], sent["censored"]) == ("42", False)
    assert sent["img"].startswith("http://localhost/api/v2/pictures/")
    assert studio.follow(sent["img"]).status_code == 200


def test_without_kudos_who_got_least_pixels_lately_comes_first() -> None:
    studio = Studio(kudos=False)
    for _ in range(2):
        studio.order(ALICE, params={"width": 1024, "height": 1024})
    bobs = studio.order(BOB)
    studio.make()
    studio.make()
    assert len(studio.look(bobs)["generations"]) == 1


def test_an_account_has_as_many_texts_as_before_while_its_images_wait(studio: Studio) -> None:
    studio.horde.add_account("poor-key", "poor", concurrency=2)
    studio.order("poor-key", n=2)
    assert refused(studio.try_order("poor-key")) == (429, "TooManyPrompts")
    studio.submit("poor-key", n=2)


def test_a_worker_in_maintenance_gets_images_of_its_owner_only(studio: Studio) -> None:
    studio.take()
    path = f"/api/v2/workers/{studio.worker('painter')['id']}"
    studio.client.put(path, json={"maintenance": True}, headers={"apikey": OWNER})
    studio.order()
    assert refused(studio.try_take()) == (403, "WorkerMaintenance")
    mine = studio.order(OWNER)
    studio.make()
    assert studio.look(mine)["done"] is True


def test_favoured_accounts_come_first_among_images(studio: Studio) -> None:
    studio.order()
    bobs = studio.order(BOB)
    name = studio.user(BOB)["username"]
    studio.make(priority_usernames=[name])
    assert studio.look(bobs)["done"] is True


def test_a_filter_of_prompts_holds_for_images(studio: Studio) -> None:
    words = {"regex": "lighthouse", "filter_type": 10, "description": "x"}
    studio.horde.add_account("admin-key", "admin", roles=("admin", "moderator"))
    studio.client.put("/api/v2/filters", json=words, headers={"apikey": "admin-key"})
    assert refused(studio.try_order()) == (400, "CorruptPrompt")
