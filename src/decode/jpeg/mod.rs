//! JPEG, as far as it is not the decoder's own business: where its parts stand, what cameras leave out of it, whether all of
//! it is there, and the mean of each of its blocks without decoding the rest. Pure.

mod blocks;
mod header;
mod huffman;
mod markers;
mod pixels;
mod progressive;
mod repair;
mod scan;
mod tables;

pub(crate) use blocks::{BLOCK, Blocks};
pub(crate) use markers::{End, START, end_of_picture, exif};
pub(crate) use pixels::{Scratch, decode, reduce};
