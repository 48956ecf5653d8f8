"""Which squares are exact: text and lines are, photographs are not, and what is chosen costs less than none."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw

from pillow_mcquic import loading
from pillow_mcquic.engine import exact_choice
from pillow_mcquic.engine.encoder import Encoder
from pillow_mcquic.quality import Quality


@pytest.fixture(scope="module")
def encoder() -> Encoder:
    return loading.load_encoder("cpu")


def planes(image: Image.Image) -> torch.Tensor:
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)


def text(size: tuple[int, int]) -> Image.Image:
    image = Image.new("RGB", size, "white")
    draw = ImageDraw.Draw(image)
    for y in range(4, size[1] - 8, 12):
        draw.text((4, y), "the quick brown fox jumps over the lazy dog", fill=(10, 10, 60))
    return image


@pytest.fixture(scope="module")
def page(photo: Image.Image) -> Image.Image:
    """Text on the left, a photo on the right: 16 x 24 squares."""
    image = Image.new("RGB", (384, 256), "white")
    image.paste(text((192, 256)), (0, 0))
    image.paste(photo.crop((300, 80, 492, 336)), (192, 0))
    return image


def choice_of(encoder: Encoder, image: Image.Image, quality: float) -> exact_choice.Choice | None:
    images = encoder.images(np.array(image))
    coded = encoder.encode(images, Quality.parse(quality)).coded
    return exact_choice.choose(encoder, images, coded, Quality.parse(quality))


def test_photograph_is_not_worth_a_try(photo: Image.Image) -> None:
    assert not exact_choice.worth_a_try(planes(photo), Quality(2048))


def test_page_is_worth_a_try(page: Image.Image) -> None:
    assert exact_choice.worth_a_try(planes(page), Quality(256))


def test_text_is_exact_and_the_photo_beside_it_is_learned(encoder: Encoder, page: Image.Image) -> None:
    choice = choice_of(encoder, page, 5)
    assert choice is not None
    assert choice.squares[:, :10].mean() > 0.4
    assert choice.squares[:, 13:].mean() < 0.1


def test_text_alone_is_exact_everywhere_in_few_colours(encoder: Encoder) -> None:
    choice = choice_of(encoder, text((240, 200)), 5)
    assert choice is not None
    assert choice.squares.all()
    assert len(np.unique(choice.pixels.reshape(-1, 3), axis=0)) <= 64


def test_exact_pixels_are_the_pictures_at_high_quality(encoder: Encoder) -> None:
    image = Image.new("RGB", (200, 180), "white")
    ImageDraw.Draw(image).line((0, 0, 199, 179), fill="red")
    choice = choice_of(encoder, image, 8)
    assert choice is not None
    assert np.array_equal(choice.pixels, np.asarray(image))


def test_photograph_that_is_tried_has_no_exact_squares(
    encoder: Encoder, photo: Image.Image, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exact_choice, "_unlike_photos", lambda _: 1.0)
    assert choice_of(encoder, photo.crop((300, 80, 492, 336)), 5) is None


def test_letters_on_a_photo_are_exact_where_networks_do_not_reach_the_quality(
    encoder: Encoder, photo: Image.Image
) -> None:
    image = photo.crop((100, 0, 740, 480))
    ImageDraw.Draw(image).text((40, 60), "fox", fill="white", stroke_fill="black", stroke_width=1)
    assert choice_of(encoder, image, 8) is None
    choice = choice_of(encoder, image, 10)
    assert choice is not None
    assert 1 <= choice.squares.sum() <= 8
    assert np.array_equal(choice.pixels, np.asarray(image))


def test_fill_keeps_learned_squares_and_hides_the_others() -> None:
    image = torch.full((1, 3, 48, 64), 200, dtype=torch.uint8)
    image[..., 16:32, 16:32] = torch.randint(0, 256, (16, 16), dtype=torch.uint8)
    squares = np.zeros((3, 4), np.bool_)
    squares[1, 1] = True
    assert (exact_choice.fill(image, squares) == 200).all()


def test_fill_of_odd_sides_goes_from_one_side_to_the_other() -> None:
    image = torch.zeros(1, 3, 33, 95, dtype=torch.uint8)
    image[..., 48:] = 100
    squares = np.zeros((3, 6), np.bool_)
    squares[:, 1:5] = True
    row = exact_choice.fill(image, squares)[0, 0, 20]
    assert (row[:16] == 0).all()
    assert (row[80:] == 100).all()
    assert (row.int().diff() >= -2).all()
    assert 30 < int(row[48]) < 70


def test_guess_tells_noise_from_text_and_text_from_paper() -> None:
    image = torch.full((3, 16, 48), 255, dtype=torch.uint8)
    image[:, :, 16:32] = planes(text((16, 16)))
    image[:, :, 32:] = torch.randint(0, 256, (3, 16, 16), dtype=torch.uint8)
    paper, words, noise = exact_choice.guessed_bits(image)[0].tolist()
    assert paper < words < noise
    assert noise == pytest.approx(256 * 14, rel=0.1)
