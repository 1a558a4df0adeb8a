//! The tensors that sessions make, and what they are fed.

use ort::session::SessionInputValue;
use ort::value::{DynTensor, DynValue, TensorElementType, TensorRef};

use super::error::SessionError;
use crate::backbone::graph::onnx::DataType;

/// A tensor that a session made. Rows are contiguous.
#[derive(Debug)]
pub(crate) struct Buffer {
    value: DynTensor,
    shape: Vec<usize>,
}

impl Buffer {
    pub(crate) fn new(value: DynValue) -> Result<Self, SessionError> {
        let value: DynTensor = value.downcast()?;
        let shape = value.shape().iter().map(|&dim| usize::try_from(dim).unwrap_or(0)).collect();
        Ok(Self { value, shape })
    }

    /// Dims, the batch first.
    pub(crate) fn shape(&self) -> &[usize] {
        &self.shape
    }

    pub(crate) fn element(&self) -> TensorElementType {
        *self.value.data_type()
    }

    /// Element type by ONNX's number; 0 for what is not carried.
    pub(crate) fn element_number(&self) -> i32 {
        (match self.element() {
            TensorElementType::Float32 => DataType::Float,
            TensorElementType::Float16 => DataType::Float16,
            TensorElementType::Uint8 => DataType::Uint8,
            TensorElementType::Int8 => DataType::Int8,
            TensorElementType::Int32 => DataType::Int32,
            TensorElementType::Int64 => DataType::Int64,
            TensorElementType::Bool => DataType::Bool,
            TensorElementType::Float64 => DataType::Double,
            _ => DataType::Undefined,
        }) as i32
    }

    fn typed<T: ort::value::PrimitiveTensorElementType>(&self) -> Result<&[T], SessionError> {
        Ok(self.value.try_extract_tensor::<T>()?.1)
    }

    /// The values of an f32 tensor.
    pub(crate) fn floats(&self) -> Result<&[f32], SessionError> {
        self.typed()
    }

    /// Whether all values are numbers; for whole numbers they always are.
    pub(crate) fn is_finite(&self) -> bool {
        match self.element() {
            TensorElementType::Float32 => {
                self.typed().is_ok_and(|all: &[f32]| all.iter().all(|value| value.is_finite()))
            }
            TensorElementType::Float16 => {
                self.typed().is_ok_and(|all: &[half::f16]| all.iter().all(|value| value.is_finite()))
            }
            TensorElementType::Float64 => {
                self.typed().is_ok_and(|all: &[f64]| all.iter().all(|value| value.is_finite()))
            }
            _ => true,
        }
    }

    /// The values of an int64 tensor; `None` for another type.
    pub(crate) fn integers(&self) -> Option<Vec<i64>> {
        self.typed::<i64>().ok().map(<[i64]>::to_vec)
    }

    /// Moves the rows `keep` (ascending) of `row` elements each to the front.
    pub(crate) fn compact(&mut self, row: usize, keep: &[usize]) -> Result<(), SessionError> {
        match self.element() {
            TensorElementType::Float32 => compact(self.value.try_extract_tensor_mut::<f32>()?.1, row, keep),
            TensorElementType::Uint8 => compact(self.value.try_extract_tensor_mut::<u8>()?.1, row, keep),
            TensorElementType::Int8 => compact(self.value.try_extract_tensor_mut::<i8>()?.1, row, keep),
            TensorElementType::Float16 => compact(self.value.try_extract_tensor_mut::<half::f16>()?.1, row, keep),
            other => return Err(foreign(other)),
        }
        Ok(())
    }
}

fn compact<T: Copy>(data: &mut [T], row: usize, keep: &[usize]) {
    for (to, &from) in keep.iter().enumerate().filter(|(to, from)| to != *from) {
        data.copy_within(from * row..(from + 1) * row, to * row);
    }
}

/// Rows of several tensors, one behind the other; its memory is kept for the next ones.
#[derive(Debug, Default)]
pub(crate) struct Held {
    floats: Vec<f32>,
    halves: Vec<half::f16>,
    bytes: Vec<u8>,
    signed: Vec<i8>,
}

impl Held {
    /// Appends `length` elements of a tensor, from the element `from` on.
    pub(crate) fn append(&mut self, buffer: &Buffer, from: usize, length: usize) -> Result<(), SessionError> {
        match buffer.element() {
            TensorElementType::Float32 => self.floats.extend_from_slice(part(buffer.typed()?, from, length)?),
            TensorElementType::Float16 => self.halves.extend_from_slice(part(buffer.typed()?, from, length)?),
            TensorElementType::Uint8 => self.bytes.extend_from_slice(part(buffer.typed()?, from, length)?),
            TensorElementType::Int8 => self.signed.extend_from_slice(part(buffer.typed()?, from, length)?),
            other => return Err(foreign(other)),
        }
        Ok(())
    }

    /// Gives up the first `length` elements.
    pub(crate) fn drop_front(&mut self, length: usize) {
        fn drop<T>(values: &mut Vec<T>, length: usize) {
            values.drain(..length.min(values.len()));
        }
        drop(&mut self.floats, length);
        drop(&mut self.halves, length);
        drop(&mut self.bytes, length);
        drop(&mut self.signed, length);
    }
}

/// What a session is fed: `rows x dims`.
#[derive(Debug)]
pub(crate) enum Feed<'a> {
    /// Frames as decoded.
    Frames(&'a [f32]),
    /// Rows of what a session before made, from this element on.
    Rows(&'a Buffer, usize),
    /// Rows of several such, put together, from this element on.
    Held(&'a Held, usize),
}

impl Feed<'_> {
    /// As the session takes it; borrowed, not copied.
    pub(crate) fn value(&self, rows: usize, dims: &[usize]) -> Result<SessionInputValue<'_>, SessionError> {
        // A tensor that goes on whole is handed on as it is: making another of it takes time that small segments show.
        if let Feed::Rows(buffer, 0) = self
            && buffer.shape.split_first().is_some_and(|(first, rest)| *first == rows && rest == dims)
        {
            return Ok(SessionInputValue::from(&buffer.value));
        }
        let shape: Vec<usize> = std::iter::once(rows).chain(dims.iter().copied()).collect();
        let length = shape.iter().product::<usize>();
        match self {
            Feed::Frames(frames) => lent(cut_to(frames, length)?, shape),
            Feed::Rows(buffer, from) => match buffer.element() {
                TensorElementType::Float32 => lent(part(buffer.typed::<f32>()?, *from, length)?, shape),
                TensorElementType::Uint8 => lent(part(buffer.typed::<u8>()?, *from, length)?, shape),
                TensorElementType::Int8 => lent(part(buffer.typed::<i8>()?, *from, length)?, shape),
                TensorElementType::Float16 => lent(part(buffer.typed::<half::f16>()?, *from, length)?, shape),
                other => Err(foreign(other)),
            },
            Feed::Held(held, from) => match (&held.floats[..], &held.halves[..], &held.bytes[..], &held.signed[..]) {
                (floats @ [_, ..], ..) => lent(part(floats, *from, length)?, shape),
                (_, halves @ [_, ..], ..) => lent(part(halves, *from, length)?, shape),
                (_, _, bytes @ [_, ..], _) => lent(part(bytes, *from, length)?, shape),
                (.., signed) => lent(part(signed, *from, length)?, shape),
            },
        }
    }
}

fn lent<T>(data: &[T], shape: Vec<usize>) -> Result<SessionInputValue<'_>, SessionError>
where
    T: ort::value::PrimitiveTensorElementType + std::fmt::Debug + Clone + 'static,
{
    Ok(SessionInputValue::from(TensorRef::from_array_view((shape, data))?))
}

fn cut_to<T>(data: &[T], length: usize) -> Result<&[T], SessionError> {
    data.get(..length).ok_or_else(|| SessionError::Ort(format!("needs {length} values, has {}", data.len())))
}

fn part<T>(data: &[T], from: usize, length: usize) -> Result<&[T], SessionError> {
    cut_to(data.get(from..).unwrap_or_default(), length)
}

fn foreign(element: TensorElementType) -> SessionError {
    SessionError::Ort(format!("cannot carry {element:?} across a cut"))
}
