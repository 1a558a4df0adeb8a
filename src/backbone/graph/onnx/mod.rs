//! ONNX's protobuf schema and the few constructors and readers that cutting a graph needs.
//!
//! `schema.rs` is generated (see `generate.sh`); weights are `Bytes`, slices of the file's one buffer. Knows nothing of
//! cutting, of ONNX Runtime or of files.

#[allow(missing_docs, unreachable_pub, clippy::all, clippy::pedantic, clippy::nursery, reason = "generated code")]
mod schema;

use std::collections::BTreeSet;

use bytes::Bytes;

pub(crate) use schema::{
    AttributeProto, GraphProto, ModelProto, NodeProto, OperatorSetIdProto, StringStringEntryProto, TensorProto,
    TensorShapeProto, TypeProto, ValueInfoProto, attribute_proto::AttributeType, tensor_proto::DataLocation,
    tensor_proto::DataType, tensor_shape_proto, tensor_shape_proto::dimension::Value as DimValue, type_proto,
};

/// Element types by the schema's numbers, as far as they matter here.
pub(crate) const FLOAT: i32 = DataType::Float as i32;

impl NodeProto {
    /// A node of the default domain.
    pub(crate) fn new(op: &str, name: &str, inputs: &[&str], outputs: &[&str]) -> Self {
        Self {
            op_type: Some(op.to_owned()),
            name: Some(name.to_owned()),
            input: inputs.iter().map(ToString::to_string).collect(),
            output: outputs.iter().map(ToString::to_string).collect(),
            ..Self::default()
        }
    }

    pub(crate) fn with_ints(mut self, name: &str, ints: &[i64]) -> Self {
        self.attribute.push(AttributeProto {
            name: Some(name.to_owned()),
            r#type: Some(AttributeType::Ints as i32),
            ints: ints.to_vec(),
            ..AttributeProto::default()
        });
        self
    }

    pub(crate) fn with_int(mut self, name: &str, value: i64) -> Self {
        self.attribute.push(AttributeProto {
            name: Some(name.to_owned()),
            r#type: Some(AttributeType::Int as i32),
            i: Some(value),
            ..AttributeProto::default()
        });
        self
    }

    fn attribute(&self, name: &str) -> Option<&AttributeProto> {
        self.attribute.iter().find(|attribute| attribute.name() == name)
    }

    /// An integer attribute.
    pub(crate) fn int(&self, name: &str) -> Option<i64> {
        self.attribute(name).and_then(|attribute| attribute.i)
    }

    /// An attribute that is UTF-8 text.
    pub(crate) fn text(&self, name: &str) -> Option<&str> {
        self.attribute(name)
            .and_then(|attribute| attribute.s.as_deref())
            .and_then(|text| std::str::from_utf8(text).ok())
    }

    /// How the node is named in messages: its op and name, or its first output where it has no name.
    pub(crate) fn title(&self) -> String {
        let name = if self.name().is_empty() { self.output.first().map_or("", String::as_str) } else { self.name() };
        format!("{} \"{name}\"", self.op_type())
    }

    /// Every tensor the node reads, the ones that its subgraphs take from outside included. Absent inputs are left out.
    pub(crate) fn reads(&self) -> Vec<&str> {
        let mut names: Vec<&str> = self.input.iter().map(String::as_str).filter(|name| !name.is_empty()).collect();
        for graph in self.subgraphs() {
            names.extend(graph.captures());
        }
        names
    }

    /// Every tensor the node makes; absent outputs are left out.
    pub(crate) fn makes(&self) -> impl Iterator<Item = &str> {
        self.output.iter().map(String::as_str).filter(|name| !name.is_empty())
    }

    /// Whether it runs graphs of its own.
    pub(crate) fn has_subgraphs(&self) -> bool {
        self.subgraphs().next().is_some()
    }

    fn subgraphs(&self) -> impl Iterator<Item = &GraphProto> {
        self.attribute.iter().flat_map(|attribute| attribute.g.iter().chain(&attribute.graphs))
    }
}

impl GraphProto {
    /// Names that this (sub)graph reads and does not itself define.
    fn captures(&self) -> BTreeSet<&str> {
        let mut defined: BTreeSet<&str> = self.input.iter().map(ValueInfoProto::name).collect();
        defined.extend(self.initializer.iter().map(TensorProto::name));
        defined.extend(self.node.iter().flat_map(NodeProto::makes));
        let reads = self.node.iter().flat_map(NodeProto::reads);
        let outputs = self.output.iter().map(ValueInfoProto::name);
        reads.chain(outputs).filter(|name| !name.is_empty() && !defined.contains(name)).collect()
    }
}

impl TensorProto {
    /// A one-dimensional int64 tensor.
    pub(crate) fn int64s(name: &str, values: &[i64]) -> Self {
        Self {
            name: Some(name.to_owned()),
            data_type: Some(DataType::Int64 as i32),
            dims: vec![i64::try_from(values.len()).unwrap_or(i64::MAX)],
            raw_data: Some(Bytes::from(values.iter().flat_map(|value| value.to_le_bytes()).collect::<Vec<u8>>())),
            ..Self::default()
        }
    }

    /// The values of an int64 tensor, whichever field holds them.
    pub(crate) fn read_int64s(&self) -> Option<Vec<i64>> {
        if self.data_type() != DataType::Int64 as i32 {
            return None;
        }
        match &self.raw_data {
            Some(raw) if !raw.is_empty() => {
                Some(raw.chunks_exact(8).filter_map(|chunk| chunk.try_into().ok().map(i64::from_le_bytes)).collect())
            }
            _ => Some(self.int64_data.clone()),
        }
    }

    /// Says that the values lie in another file.
    pub(crate) fn lies_in(&mut self, file: &str, offset: usize, length: usize) {
        let entry =
            |(key, value): (&str, String)| StringStringEntryProto { key: Some(key.to_owned()), value: Some(value) };
        let entries = [("location", file.to_owned()), ("offset", offset.to_string()), ("length", length.to_string())];
        self.raw_data = None;
        self.external_data = entries.into_iter().map(entry).collect();
        self.data_location = Some(DataLocation::External as i32);
    }

    /// Number of elements by the declared shape; negative or overflowing dims count as none.
    pub(crate) fn elements(&self) -> u64 {
        self.dims
            .iter()
            .try_fold(1u64, |product, &dim| product.checked_mul(u64::try_from(dim).ok()?))
            .unwrap_or_default()
    }
}

impl ValueInfoProto {
    /// Only a name: the runtime infers the type.
    pub(crate) fn named(name: &str) -> Self {
        Self { name: Some(name.to_owned()), ..Self::default() }
    }

    /// A tensor whose first dimension is the batch, the others fixed.
    pub(crate) fn rows(name: &str, element: i32, batch: DimValue, dims: &[usize]) -> Self {
        let rest = dims.iter().map(|&dim| DimValue::DimValue(i64::try_from(dim).unwrap_or(i64::MAX)));
        let dim = std::iter::once(batch)
            .chain(rest)
            .map(|value| tensor_shape_proto::Dimension { value: Some(value), denotation: None })
            .collect();
        let tensor = type_proto::Tensor { elem_type: Some(element), shape: Some(TensorShapeProto { dim }) };
        Self {
            name: Some(name.to_owned()),
            r#type: Some(TypeProto { denotation: None, value: Some(type_proto::Value::TensorType(tensor)) }),
            ..Self::default()
        }
    }

    /// Element type and dims of a tensor; a free dim is `None`. Absent for what is no tensor or has no shape.
    pub(crate) fn tensor(&self) -> Option<(i32, Option<Vec<Option<i64>>>)> {
        match self.r#type.as_ref()?.value.as_ref()? {
            type_proto::Value::TensorType(tensor) => {
                let dims = tensor.shape.as_ref().map(|shape| {
                    shape
                        .dim
                        .iter()
                        .map(|dim| match dim.value {
                            Some(DimValue::DimValue(value)) if value > 0 => Some(value),
                            _ => None,
                        })
                        .collect()
                });
                Some((tensor.elem_type.unwrap_or_default(), dims))
            }
            _ => None,
        }
    }
}
