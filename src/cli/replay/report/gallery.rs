//! Example frames: what each exit caught, by class, and where it was wrong. Small pictures, inside the page.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::Cursor;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use image::imageops::FilterType;
use image::{DynamicImage, GrayImage, ImageFormat, RgbImage};

use super::escape::escape;
use crate::cli::replay::figures::thousands;
use crate::cli::replay::played::{Played, Scene};
use crate::cli::replay::stream::LIMITS;
use crate::decode::{Decoder, Pixels};
use crate::plan::ExitId;

/// Example frames of one exit and class.
const EXAMPLES: usize = 3;
/// Classes shown of one exit, the most frequent first.
const CLASSES: usize = 12;
/// Disagreements shown.
const WRONG: usize = 24;
/// Longest side of a picture in the page, in pixels.
const SIDE: u32 = 80;
/// Pictures of at most this side are shown with hard pixel edges.
const TINY: u32 = 48;

/// Draws frames of the stream.
pub(super) struct Gallery<'a> {
    scene: &'a Scene<'a>,
    decoder: Decoder,
}

impl<'a> Gallery<'a> {
    pub(super) fn new(scene: &'a Scene<'a>) -> Self {
        Self { scene, decoder: Decoder::new(scene.plan.input.clone(), LIMITS) }
    }

    /// One exit's frames by class; `None`: the full model's.
    pub(super) fn caught(&mut self, part: &[Played], exit: Option<ExitId>) -> String {
        let mut classes: BTreeMap<usize, Vec<&Played>> = BTreeMap::new();
        for frame in part.iter().filter(|frame| frame.exit == exit) {
            if let Some((served, _)) = frame.answers() {
                classes.entry(served).or_default().push(frame);
            }
        }
        let mut classes: Vec<(usize, Vec<&Played>)> = classes.into_iter().collect();
        classes.sort_by_key(|(class, frames)| (std::cmp::Reverse(frames.len()), *class));
        let more = classes.len().saturating_sub(CLASSES);
        let mut html = String::from("<div class=classes>");
        for (class, frames) in classes.iter().take(CLASSES) {
            let images: String = spread(frames, EXAMPLES).iter().map(|frame| self.image(frame.frame)).collect();
            let (label, count) = (self.label(*class), thousands(frames.len()));
            write!(html, "<figure>{images}<figcaption>{label} <span>{count}</span></figcaption></figure>")
                .unwrap_or_default();
        }
        html.push_str("</div>");
        if more > 0 {
            write!(html, "<p class=soft>… and {more} more classes.</p>").unwrap_or_default();
        }
        html
    }

    /// Frames that were served another answer than the full model's.
    pub(super) fn wrong(&mut self, part: &[Played]) -> String {
        let wrong = |frame: &&Played| frame.answers().is_some_and(|(served, full)| served != full);
        let frames: Vec<&Played> = part.iter().filter(wrong).collect();
        if frames.is_empty() {
            return "<p>None.</p>".to_owned();
        }
        let mut html = String::from("<div class='classes pairs'>");
        for frame in spread(&frames, WRONG) {
            let Some((served, full)) = frame.answers() else { continue };
            let (image, served, full) = (self.image(frame.frame), self.label(served), self.label(full));
            let exit = frame.exit.map_or_else(String::new, |exit| format!("exit {exit}"));
            let truth = self.scene.truth.get(frame.frame).copied().flatten();
            let truth = truth.map_or_else(String::new, |class| format!("<br>true: {}", self.label(class)));
            write!(
                html,
                "<figure>{image}<figcaption>{served} <span>by {exit}<br>full model: {full}{truth}</span></figcaption></figure>"
            )
            .unwrap_or_default();
        }
        html.push_str("</div>");
        let hidden = frames.len().saturating_sub(WRONG);
        if hidden > 0 {
            write!(html, "<p class=soft>… and {} more.</p>", thousands(hidden)).unwrap_or_default();
        }
        html
    }

    fn label(&self, class: usize) -> String {
        self.scene.plan.labels.get(class).map_or_else(|| format!("class {class}"), |label| escape(label))
    }

    /// A frame as the model saw it, drift included, as an `img` of its own bytes; empty where it cannot be drawn.
    fn image(&mut self, frame: usize) -> String {
        let Some((bytes, is_tiny)) = self.png(frame) else { return String::new() };
        let class = if is_tiny { " class=small" } else { "" };
        format!(
            "<img{class} alt='frame {frame}' title='frame {frame}' src='data:image/png;base64,{}'>",
            STANDARD.encode(bytes)
        )
    }

    fn png(&mut self, frame: usize) -> Option<(Vec<u8>, bool)> {
        let picture = self.scene.pictures.get(*self.scene.order.get(frame)?)?;
        let drifted = match self.scene.shift {
            Some(shift) => shift.apply(&mut self.decoder, picture, frame).ok()?,
            None => None,
        };
        let (bytes, content_type) =
            drifted.as_ref().map_or((&picture.bytes, &picture.content_type), |(bytes, kind)| (bytes, kind));
        let Pixels { width, height, channels, values } = self.decoder.pixels(bytes, Some(content_type)).ok()?;
        let (width, height) = (u32::try_from(width).ok()?, u32::try_from(height).ok()?);
        let image: DynamicImage = if channels == 1 {
            GrayImage::from_raw(width, height, values)?.into()
        } else {
            RgbImage::from_raw(width, height, values)?.into()
        };
        let longest = width.max(height);
        let image = if longest > SIDE {
            let side = |side: u32| (u64::from(side) * u64::from(SIDE) / u64::from(longest)).max(1) as u32;
            image.resize_exact(side(width), side(height), FilterType::Triangle)
        } else {
            image
        };
        let mut png = Cursor::new(Vec::new());
        image.write_to(&mut png, ImageFormat::Png).ok()?;
        Some((png.into_inner(), longest <= TINY))
    }
}

/// At most `count` of the frames, evenly spread.
fn spread<'a>(frames: &[&'a Played], count: usize) -> Vec<&'a Played> {
    let shown = count.min(frames.len());
    (0..shown).map(|at| frames[at * frames.len() / shown]).collect()
}
