//! The tables of a JPEG. Pure.

use super::header::Fault;
use super::huffman::Table;

/// A table and whether this picture has named it.
#[derive(Debug, Default)]
struct Slot {
    table: Option<Table>,
    is_named: bool,
}

/// The Huffman tables of the means and of the other coefficients, and the steps of the means. The first live from picture to picture, because a camera's
/// are always the same, but serve only a picture that names them.
#[derive(Debug, Default)]
pub(super) struct Tables {
    means: [Slot; 4],
    others: [Slot; 4],
    /// Steps of the means.
    steps: [u16; 4],
}

impl Tables {
    /// What the picture before has named is gone.
    pub(super) fn forget(&mut self) {
        self.steps = [0; 4];
        self.means.iter_mut().chain(&mut self.others).for_each(|slot| slot.is_named = false);
    }

    /// The table of means at this place.
    ///
    /// # Errors
    /// The picture has named none.
    pub(super) fn means(&self, at: usize) -> Result<&Table, Fault> {
        get(&self.means, at)
    }

    /// The table of other coefficients at this place.
    ///
    /// # Errors
    /// The picture has named none.
    pub(super) fn others(&self, at: usize) -> Result<&Table, Fault> {
        get(&self.others, at)
    }

    /// The step of means at this place; 0: the picture has named none.
    pub(super) fn step(&self, at: usize) -> u16 {
        self.steps.get(at).copied().unwrap_or(0)
    }

    /// Reads a segment of Huffman tables.
    ///
    /// # Errors
    /// It is broken.
    pub(super) fn read_codes(&mut self, mut body: &[u8]) -> Result<(), Fault> {
        while let Some((&class_and_place, rest)) = body.split_first() {
            let (counts, rest) = rest.split_first_chunk::<16>().ok_or(Fault::Corrupt)?;
            let length = counts.iter().map(|&count| usize::from(count)).sum();
            let (symbols, rest) = rest.split_at_checked(length).ok_or(Fault::Corrupt)?;
            let slots = if class_and_place >> 4 == 0 { &mut self.means } else { &mut self.others };
            let slot = slots.get_mut(usize::from(class_and_place & 15)).ok_or(Fault::Corrupt)?;
            if !slot.table.as_ref().is_some_and(|table| table.is_of(counts, symbols)) {
                slot.table = Some(Table::new(counts, symbols).ok_or(Fault::Corrupt)?);
            }
            slot.is_named = true;
            body = rest;
        }
        Ok(())
    }

    /// Reads a segment of quantisation tables, as far as they are the means'.
    ///
    /// # Errors
    /// It is broken.
    pub(super) fn read_steps(&mut self, mut body: &[u8]) -> Result<(), Fault> {
        while let Some((&precision_and_place, rest)) = body.split_first() {
            let is_wide = precision_and_place >> 4 != 0;
            let (values, rest) = rest.split_at_checked(if is_wide { 128 } else { 64 }).ok_or(Fault::Corrupt)?;
            let slot = self.steps.get_mut(usize::from(precision_and_place & 15)).ok_or(Fault::Corrupt)?;
            *slot = match *values {
                [high, low, ..] if is_wide => u16::from_be_bytes([high, low]),
                [value, ..] => u16::from(value),
                [] => 0,
            };
            body = rest;
        }
        Ok(())
    }
}

fn get(slots: &[Slot; 4], at: usize) -> Result<&Table, Fault> {
    let slot = slots.get(at).filter(|slot| slot.is_named);
    slot.and_then(|slot| slot.table.as_ref()).ok_or(Fault::Corrupt)
}
