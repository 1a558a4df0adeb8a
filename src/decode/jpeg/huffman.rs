//! Entropy-coded bits and Huffman tables of a JPEG, made for skipping: what a block holds besides its mean is only counted.
//! Pure.

/// Bits that one look-up sees. Codes of the standard tables that are longer are rare.
const LOOK: u32 = 11;

/// Most bits that one symbol takes: a code of 16 and 15 bits of its value.
const SYMBOL_BITS_MAX: u32 = 31;

/// Entropy-coded data as bits, the first one highest; stuffed zeros are taken out, and a marker ends it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Bits<'a> {
    bytes: &'a [u8],
    at: usize,
    /// The next bits, from the highest down; zeros behind them.
    held: u64,
    /// How many of them are real; below zero once more was taken than there was.
    count: i32,
}

impl<'a> Bits<'a> {
    pub(super) fn new(bytes: &'a [u8], at: usize) -> Self {
        Self { bytes, at, held: 0, count: 0 }
    }

    /// Whether more was taken than there is: the bytes end, or a marker stands, before the data does.
    pub(super) fn is_overdrawn(&self) -> bool {
        self.count < 0
    }

    /// Whether nothing more follows: the bytes end, or a marker stands.
    pub(super) fn is_at_end(&self) -> bool {
        match self.bytes.get(self.at..) {
            Some([0xFF, behind, ..]) => *behind != 0,
            Some([0xFF] | []) | None => true,
            Some(_) => false,
        }
    }

    /// Whether what is left may be less than a symbol: if it is no code, that is because bits are missing.
    pub(super) fn is_spent(&self) -> bool {
        self.is_at_end() && self.count <= SYMBOL_BITS_MAX as i32
    }

    /// Makes sure that a whole symbol can be looked at, as far as there are bits.
    #[inline]
    fn fill(&mut self) {
        if self.count > SYMBOL_BITS_MAX as i32 || self.count < 0 {
            return;
        }
        if let Some(word) = self.bytes.get(self.at..).and_then(<[u8]>::first_chunk).copied().map(u32::from_be_bytes)
            && !has_marker_byte(word)
        {
            self.held |= u64::from(word) << (32 - self.count);
            self.count += 32;
            self.at += 4;
        } else {
            *self = self.filled_by_byte();
        }
    }

    /// By value: the loops that call it keep their bits in registers.
    #[cold]
    #[inline(never)]
    fn filled_by_byte(mut self) -> Self {
        while self.count <= 56
            && let Some(&byte) = self.bytes.get(self.at)
            && (byte != 0xFF || self.bytes.get(self.at + 1) == Some(&0))
        {
            self.at += if byte == 0xFF { 2 } else { 1 };
            self.held |= u64::from(byte) << (56 - self.count);
            self.count += 8;
        }
        self
    }

    #[inline]
    fn drop(&mut self, bits: u32) {
        self.held <<= bits;
        self.count -= bits as i32;
    }

    /// The next bit.
    pub(super) fn bit(&mut self) -> i16 {
        self.fill();
        self.take(1) as i16
    }

    /// Passes over bits, at most 15.
    pub(super) fn pass(&mut self, bits: u32) {
        self.fill();
        self.drop(bits);
    }

    /// An AC symbol: how many coefficients are zero in front of the next one, and of how many bits its value is.
    ///
    /// # Errors
    /// The bits are no code of the table.
    pub(super) fn pair(&mut self, table: &Table) -> Result<(usize, u32), BadCode> {
        self.symbol(table).map(|symbol| (usize::from(symbol >> 4), value_bits(symbol)))
    }

    /// The length of a run of blocks, of which the symbol has told the power of two (at most 14).
    pub(super) fn run(&mut self, power: usize) -> u32 {
        let power = power.min(14) as u32;
        (1 << power) + self.take(power) as u32
    }

    /// The next `bits` (at most 15) as a number; they are there, or there are no more.
    #[inline]
    fn take(&mut self, bits: u32) -> i32 {
        let value = (self.held >> 1 >> (63 - bits)) as i32;
        self.drop(bits);
        value
    }

    /// The difference of a block's mean (its DC coefficient) to the one before.
    ///
    /// # Errors
    /// The bits are no code of the table.
    #[inline]
    pub(super) fn difference(&mut self, table: &Table) -> Result<i32, BadCode> {
        let size = u32::from(self.symbol(table)?);
        if size > 15 {
            return Err(BadCode);
        }
        let bits = self.take(size);
        // The upper half of the numbers of a size is positive, the lower half negative. Without a branch: nobody can guess it.
        let is_negative = i32::from(bits < 1 << size >> 1);
        Ok(bits - is_negative * ((1 << size) - 1))
    }

    /// The next symbol; the bits of its value are there too, as far as there are any.
    #[inline]
    fn symbol(&mut self, table: &Table) -> Result<u8, BadCode> {
        self.fill();
        let first = table.firsts[(self.held >> (64 - LOOK)) as usize];
        let (length, symbol) =
            if first.length > 0 { (u32::from(first.length), first.symbol) } else { table.long(self.held)? };
        self.drop(length);
        Ok(symbol)
    }

    /// Passes over the other coefficients of a block, from number `from` on (1 in sequential pictures).
    ///
    /// # Errors
    /// The bits are no code of the table.
    #[inline]
    pub(super) fn skip_block(&mut self, table: &Table) -> Result<(), BadCode> {
        let mut at = 1;
        while at < 64 {
            self.fill();
            let pair = table.pairs[(self.held >> (64 - LOOK)) as usize];
            if pair.bits > 0 {
                // The second symbol belongs to this block only if the first one does not end it.
                let is_last = at + u32::from(pair.first_steps) > 63;
                let (bits, steps) = if is_last { (pair.first_bits, pair.first_steps) } else { (pair.bits, pair.steps) };
                self.drop(u32::from(bits));
                at += u32::from(steps);
            } else {
                let (length, symbol) = table.long(self.held)?;
                self.drop(length + value_bits(symbol));
                at += steps(symbol);
            }
        }
        Ok(())
    }

    /// Goes to behind the restart marker that must stand next.
    ///
    /// # Errors
    /// None stands there.
    pub(super) fn restart(&mut self) -> Result<(), BadCode> {
        // Whole bytes that were read ahead are none of ours: before a restart marker there is only padding.
        (self.held, self.count) = (0, 0);
        while self.bytes.get(self.at) == Some(&0xFF) && self.bytes.get(self.at + 1) == Some(&0xFF) {
            self.at += 1;
        }
        match self.bytes.get(self.at..).and_then(<[u8]>::first_chunk) {
            Some([0xFF, 0xD0..=0xD7]) => {
                self.at += 2;
                Ok(())
            }
            _ => Err(BadCode),
        }
    }
}

/// The bits are no code of the table, or no restart stands where one must.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct BadCode;

/// Whether one of the four bytes is `FF`: then it may be a marker, or stuffing follows it.
#[inline]
fn has_marker_byte(word: u32) -> bool {
    let inverted = !word;
    inverted.wrapping_sub(0x0101_0101) & !inverted & 0x8080_8080 != 0
}

/// Bits of the value behind an AC symbol's code.
fn value_bits(symbol: u8) -> u32 {
    u32::from(symbol & 15)
}

/// By how many coefficients an AC symbol goes on; far enough if the block is over.
fn steps(symbol: u8) -> u32 {
    match symbol {
        0xF0 => 16,
        _ if value_bits(symbol) == 0 => 64,
        _ => u32::from(symbol >> 4) + 1,
    }
}

/// The symbol whose code begins the bits that were looked at; no length: the code is longer than the look.
#[derive(Debug, Clone, Copy, Default)]
struct First {
    length: u8,
    symbol: u8,
}

/// The same for skipping: one AC symbol with its value, and another one behind it where both codes were seen.
#[derive(Debug, Clone, Copy, Default)]
struct Pair {
    bits: u8,
    steps: u8,
    first_bits: u8,
    first_steps: u8,
}

/// A Huffman table, ready to be looked up.
#[derive(Debug)]
pub(super) struct Table {
    counts: [u8; 16],
    symbols: Vec<u8>,
    firsts: Box<[First; 1 << LOOK]>,
    pairs: Box<[Pair; 1 << LOOK]>,
    /// For each length of code, from 1: the first 16-bit look that lies behind its codes, and what makes a code's look the
    /// place of its symbol.
    ends: [(u32, i32); 16],
}

impl Table {
    /// A table from its segment's words: how many codes there are of each length, then their symbols. `None` if the codes
    /// do not fit.
    pub(super) fn new(counts: &[u8; 16], symbols: &[u8]) -> Option<Self> {
        let mut table = Self {
            counts: *counts,
            symbols: symbols.to_vec(),
            firsts: Box::new([First::default(); 1 << LOOK]),
            pairs: Box::new([Pair::default(); 1 << LOOK]),
            ends: [(0, 0); 16],
        };
        let (mut code, mut place) = (0_u32, 0_usize);
        for (length, &count) in (1..=16_u32).zip(counts) {
            let codes = u32::from(count);
            // What is left of all 16-bit looks must hold the codes of this length.
            if code + codes > 1 << length {
                return None;
            }
            for symbol in symbols.get(place..place + usize::from(count))? {
                if length <= LOOK {
                    let looks = (code << (LOOK - length)) as usize..((code + 1) << (LOOK - length)) as usize;
                    table.firsts.get_mut(looks)?.fill(First { length: length as u8, symbol: *symbol });
                }
                (code, place) = (code + 1, place + 1);
            }
            table.ends[length as usize - 1] = (code << (16 - length), place as i32 - code as i32);
            code <<= 1;
        }
        table.fill_pairs();
        Some(table)
    }

    /// Whether the table is made of these words.
    pub(super) fn is_of(&self, counts: &[u8; 16], symbols: &[u8]) -> bool {
        &self.counts == counts && self.symbols == symbols
    }

    fn fill_pairs(&mut self) {
        let bits_of = |first: First| u32::from(first.length) + value_bits(first.symbol);
        for (look, pair) in (0_u32..).zip(self.pairs.iter_mut()) {
            let first = self.firsts[look as usize];
            if first.length == 0 {
                continue;
            }
            let (bits, first_steps) = (bits_of(first), steps(first.symbol));
            *pair = Pair {
                bits: bits as u8,
                steps: first_steps as u8,
                first_bits: bits as u8,
                first_steps: first_steps as u8,
            };
            if bits >= LOOK || first_steps >= 64 {
                continue;
            }
            // Zeros stand for what was not seen: a code that is found is right only if it ends within the look.
            let second = self.firsts[((look << bits) & ((1 << LOOK) - 1)) as usize];
            let both = bits + bits_of(second);
            if second.length > 0 && bits + u32::from(second.length) <= LOOK && both <= SYMBOL_BITS_MAX {
                (pair.bits, pair.steps) = (both as u8, (first_steps + steps(second.symbol)) as u8);
            }
        }
    }

    /// Length and symbol of a code that is longer than a look.
    #[cold]
    fn long(&self, held: u64) -> Result<(u32, u8), BadCode> {
        let look = (held >> 48) as u32;
        let found = (1..=16_u32).zip(self.ends).find(|&(_, (end, _))| look < end);
        let (length, (_, offset)) = found.ok_or(BadCode)?;
        let place = (look >> (16 - length)) as i32 + offset;
        let symbol = usize::try_from(place).ok().and_then(|place| self.symbols.get(place));
        symbol.map(|&symbol| (length, symbol)).ok_or(BadCode)
    }
}
