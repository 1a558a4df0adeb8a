//! A camera that changes: drifts applied to decoded 8-bit pictures, of any size, grey or colour. Pure.
//!
//! What comes out is encoded again, so that it takes the same way to the backbone as any frame.

use std::fmt;

use anyhow::Context;
use image::codecs::jpeg::JpegEncoder;
use image::imageops;
use image::{ExtendedColorType, ImageBuffer, Luma, Pixel, Rgb};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use serde::Serialize;

use crate::decode::{Decoder, Pixels};
use crate::source::Picture;

const JPEG_QUALITY: u8 = 20;
const BLUR_SIGMA: f32 = 1.0;
const ROTATION_DEGREES: f32 = 20.0;
const NOISE_SIGMA: f32 = 25.0;

/// What happens to the pictures.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Drift {
    /// Half the brightness.
    Bright,
    /// JPEG at quality 20.
    Jpeg20,
    /// Gaussian blur, sigma 1 pixel.
    Blur,
    /// Turned by 20 degrees; black comes in at the corners.
    Rotate,
    /// Gaussian noise, sigma 25 of 255, on every value.
    Noise,
    /// Upside down.
    Flip,
}

impl fmt::Display for Drift {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Bright => "half brightness",
            Self::Jpeg20 => "JPEG quality 20",
            Self::Blur => "blur, sigma 1",
            Self::Rotate => "20 degrees of rotation",
            Self::Noise => "noise, sigma 25",
            Self::Flip => "upside down",
        })
    }
}

impl Drift {
    /// Changes one picture; gives its bytes and their content type. The same seed gives the same noise.
    ///
    /// # Errors
    /// When JPEG cannot hold a picture of this size (above 65,535 pixels wide or high).
    fn apply(self, picture: Pixels, seed: u64) -> anyhow::Result<(Vec<u8>, String)> {
        let content_type = picture.content_type();
        let (width, height) = (u32::try_from(picture.width)?, u32::try_from(picture.height)?);
        let values = match self {
            Self::Bright => picture.values.iter().map(|value| value / 2).collect(),
            Self::Jpeg20 => {
                let color = if picture.channels == 1 { ExtendedColorType::L8 } else { ExtendedColorType::Rgb8 };
                let mut bytes = Vec::new();
                let encoder = &mut JpegEncoder::new_with_quality(&mut bytes, JPEG_QUALITY);
                encoder.encode(&picture.values, width, height, color).context("encoding the drifted frame")?;
                return Ok((bytes, "image/jpeg".to_owned()));
            }
            Self::Noise => noisy(&picture.values, seed),
            Self::Blur | Self::Rotate | Self::Flip if picture.channels == 1 => {
                self.warp::<Luma<u8>>(width, height, picture.values)?
            }
            Self::Blur | Self::Rotate | Self::Flip => self.warp::<Rgb<u8>>(width, height, picture.values)?,
        };
        Ok((values, content_type))
    }

    /// The drifts that look at neighbours.
    fn warp<P: Pixel<Subpixel = u8> + 'static>(
        self,
        width: u32,
        height: u32,
        values: Vec<u8>,
    ) -> anyhow::Result<Vec<u8>> {
        let image =
            ImageBuffer::<P, Vec<u8>>::from_raw(width, height, values).context("a picture shorter than its size")?;
        Ok(match self {
            Self::Blur => imageops::blur(&image, BLUR_SIGMA).into_raw(),
            Self::Rotate => rotated(&image, ROTATION_DEGREES.to_radians()).into_raw(),
            _ => imageops::rotate180(&image).into_raw(),
        })
    }
}

/// A change of the camera: what, from which frame of the stream on, and the seed of its noise.
#[derive(Debug, Clone, Copy)]
pub(super) struct Shift {
    pub(super) kind: Drift,
    pub(super) from: usize,
    pub(super) seed: u64,
}

impl Shift {
    /// The frame's bytes and content type under the drift; `None` in front of it.
    ///
    /// # Errors
    /// When the frame cannot be decoded, or not be encoded again.
    pub(super) fn apply(
        &self,
        decoder: &mut Decoder,
        picture: &Picture,
        frame: usize,
    ) -> anyhow::Result<Option<(Vec<u8>, String)>> {
        if frame < self.from {
            return Ok(None);
        }
        let pixels = decoder.pixels(&picture.bytes, Some(&picture.content_type))?;
        self.kind.apply(pixels, self.seed.wrapping_add(frame as u64)).map(Some)
    }
}

/// Turned about the middle, bilinear, black outside. The `image` crate turns by right angles only.
fn rotated<P: Pixel<Subpixel = u8> + 'static>(
    image: &ImageBuffer<P, Vec<u8>>,
    radians: f32,
) -> ImageBuffer<P, Vec<u8>> {
    let (sin, cos) = radians.sin_cos();
    let middle = ((image.width() as f32 - 1.0) / 2.0, (image.height() as f32 - 1.0) / 2.0);
    let channels = usize::from(P::CHANNEL_COUNT);
    let value = |x: i64, y: i64, channel: usize| {
        let inside = u32::try_from(x).ok().zip(u32::try_from(y).ok());
        let pixel = inside.and_then(|(x, y)| image.get_pixel_checked(x, y));
        pixel.map_or(0.0, |pixel| f32::from(pixel.channels()[channel]))
    };
    let mut turned = ImageBuffer::new(image.width(), image.height());
    for (x, y, pixel) in turned.enumerate_pixels_mut() {
        let (dx, dy) = (x as f32 - middle.0, y as f32 - middle.1);
        let (from_x, from_y) = (middle.0 + cos * dx - sin * dy, middle.1 + sin * dx + cos * dy);
        let (left, top) = (from_x.floor() as i64, from_y.floor() as i64);
        let (right_share, bottom_share) = (from_x - left as f32, from_y - top as f32);
        let mut mixed = [0; 4];
        for (channel, mixed) in mixed.iter_mut().enumerate().take(channels) {
            let row = |y| value(left, y, channel) * (1.0 - right_share) + value(left + 1, y, channel) * right_share;
            *mixed = (row(top) * (1.0 - bottom_share) + row(top + 1) * bottom_share).round() as u8;
        }
        *pixel = *P::from_slice(&mixed[..channels]);
    }
    turned
}

fn noisy(values: &[u8], seed: u64) -> Vec<u8> {
    let mut rng = StdRng::seed_from_u64(seed);
    let mut normal = || {
        // Box and Muller; 1 - u keeps the logarithm's argument above zero.
        let (a, b): (f32, f32) = (1.0 - rng.random::<f32>(), rng.random());
        (-2.0 * a.ln()).sqrt() * (std::f32::consts::TAU * b).cos()
    };
    // A float becomes an integer by saturation.
    values.iter().map(|value| (f32::from(*value) + NOISE_SIGMA * normal()).round() as u8).collect()
}

#[cfg(test)]
mod tests {
    use clap::ValueEnum;

    use super::*;
    use crate::decode::{DecodeLimits, Decoder};
    use crate::frame::{Channels, InputSpec, Layout, Resize};

    /// A dark picture with one bright quarter, at the top left.
    fn picture(width: usize, height: usize, channels: usize) -> Pixels {
        let mut values = vec![20; width * height * channels];
        for y in 0..height / 2 {
            for x in 0..width / 2 * channels {
                values[y * width * channels + x] = 200;
            }
        }
        Pixels { width, height, channels, values }
    }

    fn drifted(drift: Drift, picture: &Pixels, seed: u64) -> Pixels {
        let channels = if picture.channels == 1 { Channels::Gray } else { Channels::Rgb };
        let (mean, std) = (vec![0.0; picture.channels], vec![1.0; picture.channels]);
        let (width, height) = (picture.width, picture.height);
        let (layout, resize) = (Layout::Nhwc, Resize::Stretch);
        let spec = InputSpec { width, height, channels, layout, scale: 1.0, mean, std, resize, mirror: true };
        let (bytes, content_type) = drift.apply(picture.clone(), seed).expect("a small picture");
        Decoder::new(spec, DecodeLimits::default()).pixels(&bytes, Some(&content_type)).expect("a whole picture")
    }

    fn mean(picture: &Pixels) -> f64 {
        picture.values.iter().map(|value| f64::from(*value)).sum::<f64>() / picture.values.len() as f64
    }

    #[test]
    fn every_drift_keeps_the_size_and_changes_the_picture_the_same_way_twice() {
        for channels in [1, 3] {
            for (width, height) in [(28, 28), (40, 17), (1, 1)] {
                let before = picture(width, height, channels);
                for drift in Drift::value_variants() {
                    let after = drifted(*drift, &before, 7);
                    assert_eq!((after.width, after.height, after.channels), (width, height, channels), "{drift}");
                    assert_eq!(after, drifted(*drift, &before, 7), "{drift}");
                    assert!(width == 1 || after != before, "{drift}");
                }
            }
        }
    }

    #[test]
    fn drifts_do_what_they_say() {
        let before = picture(40, 20, 3);
        let at = |picture: &Pixels, x: usize, y: usize| picture.values[(y * 40 + x) * 3];
        assert_eq!(at(&drifted(Drift::Bright, &before, 1), 3, 3), 100);
        let flip = drifted(Drift::Flip, &before, 1);
        assert_eq!((at(&flip, 3, 3), at(&flip, 36, 16)), (20, 200));
        let blur = drifted(Drift::Blur, &before, 1);
        assert!(at(&blur, 19, 3) < 200 && at(&blur, 20, 3) > 20);
        assert!((mean(&blur) - mean(&before)).abs() < 1.0);
        let noise = drifted(Drift::Noise, &before, 1);
        assert_ne!(noise, drifted(Drift::Noise, &before, 2));
        let dark = |picture: &Pixels| -> Vec<f64> {
            (0..10)
                .flat_map(|y| (22..40).map(move |x| (x, y + 10)))
                .map(|(x, y)| f64::from(at(picture, x, y)))
                .collect()
        };
        let spread = dark(&noise).iter().map(|value| (value - 20.0).abs()).sum::<f64>() / 180.0;
        assert!((10.0..25.0).contains(&spread), "mean distance {spread} of a clipped normal of sigma 25");
    }

    /// Method: a point right of the middle goes up or down by the sine of the angle; four quarter turns are one whole.
    #[test]
    fn a_turn_is_a_turn() {
        let mut image = ImageBuffer::<Luma<u8>, Vec<u8>>::new(41, 41);
        image.put_pixel(35, 20, Luma([255]));
        let quarter = |image: &ImageBuffer<Luma<u8>, Vec<u8>>| rotated(image, std::f32::consts::FRAC_PI_2);
        assert_eq!(quarter(&quarter(&quarter(&quarter(&image)))), image);
        let turned = rotated(&image, ROTATION_DEGREES.to_radians());
        let brightest = turned.enumerate_pixels().max_by_key(|(.., value)| value.0[0]).expect("pixels");
        assert_eq!(brightest.0, 34);
        assert!(matches!(brightest.1, 15 | 25), "row {}", brightest.1);
    }
}
