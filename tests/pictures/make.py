#!/usr/bin/env python3
"""Makes the pictures in this folder, as cameras and their tools write them. Tests only read them.

Needs Pillow, ffmpeg and libjpeg-turbo's cjpeg and jpegtran:
    pip install pillow && apt-get install ffmpeg libjpeg-turbo-progs && tests/pictures/make.py
"""

import io
import pathlib
import subprocess

from PIL import Image, ImageDraw, ImageFilter

HERE = pathlib.Path(__file__).parent
TAG = 0x112


def letter(width, height):
    """A bright F on a gradient: no turn of it looks like another."""
    image = Image.new("RGB", (width, height))
    image.putdata([(x * 255 // width, y * 255 // height, 60) for y in range(height) for x in range(width)])
    draw = ImageDraw.Draw(image)
    unit = height // 8
    for box in ((2, 1, 3, 7), (3, 1, 6, 2), (3, 3, 5, 4)):
        draw.rectangle([side * unit for side in box], fill=(250, 250, 210))
    return image


def scene(width, height):
    """Edges, a gradient and some noise, as a camera sees them."""
    image = letter(width, height)
    draw = ImageDraw.Draw(image)
    draw.ellipse([width * 0.55, height * 0.3, width * 0.95, height * 0.9], fill=(40, 90, 160))
    noise = Image.effect_noise((width, height), 12).convert("RGB")
    return Image.blend(image.filter(ImageFilter.GaussianBlur(0.7)), noise, 0.15)


def saved(image, kind, **options):
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def tagged(image, orientation, kind, **options):
    exif = Image.Exif()
    exif[TAG] = orientation
    return saved(image, kind, exif=exif, **options)


def piped(command, data):
    return subprocess.run(command, input=data, stdout=subprocess.PIPE, check=True).stdout


def without_tables(jpeg):
    """The same without its Huffman tables, as USB cameras send it."""
    out, at = [jpeg[:2]], 2
    while True:
        end = at + 2 + int.from_bytes(jpeg[at + 2 : at + 4], "big")
        if jpeg[at + 1] == 0xDA:
            return b"".join(out) + jpeg[at:]
        if jpeg[at + 1] != 0xC4:
            out.append(jpeg[at:end])
        at = end


def main():
    ppm = saved(scene(160, 120), "PPM")
    upright = letter(24, 16)
    motion = "ffmpeg -v error -f ppm_pipe -i - -pix_fmt yuvj422p -c:v mjpeg -huffman default -q:v 4 -f mjpeg -".split()
    files = {
        # Turned by hand, so that the tag turns them back: 6 says "turn clockwise by 90 degrees".
        "exif3.png": tagged(upright.transpose(Image.Transpose.ROTATE_180), 3, "PNG"),
        "exif6.jpg": tagged(upright.transpose(Image.Transpose.ROTATE_90), 6, "JPEG", quality=95, subsampling=0),
        "exif8.webp": tagged(upright.transpose(Image.Transpose.ROTATE_270), 8, "WEBP", lossless=True),
        "upright.png": saved(upright, "PNG"),
        "usb.jpg": without_tables(piped(motion, ppm)),
        "optimised_420.jpg": piped(["cjpeg", "-quality", "75", "-optimize"], ppm),
        "restarts_422.jpg": piped(["cjpeg", "-quality", "75", "-sample", "2x1", "-restart", "2B"], ppm),
        "progressive.jpg": piped(["cjpeg", "-quality", "75", "-progressive"], ppm),
        "grey.jpg": piped(["cjpeg", "-quality", "75", "-grayscale"], ppm),
        "rgb.jpg": piped(["cjpeg", "-quality", "75", "-rgb"], ppm),
    }
    # Each colour in a scan of its own.
    scans = HERE / "scans.txt"
    scans.write_text("0;\n1;\n2;\n")
    files["three_scans.jpg"] = piped(["cjpeg", "-quality", "75", "-scans", str(scans)], ppm)
    scans.unlink()
    for name, data in files.items():
        (HERE / name).write_bytes(data)


main()
