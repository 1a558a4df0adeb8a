//! The graph's shape as data flow: what depends on the picture, in which order, and where everything passes one tensor.
//!
//! Pure: reads nodes only.

use std::collections::{BTreeSet, HashMap, HashSet};

use super::onnx::{GraphProto, NodeProto, TensorProto};

/// What a tensor depends on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Class {
    /// Weights only.
    Constant,
    /// Weights and the batch size: shape arithmetic. It can be computed anew behind a cut.
    Shape,
    /// The picture.
    Data,
}

/// Index over a graph. Node numbers are positions in the graph's node list.
#[derive(Debug)]
pub(crate) struct Graph<'a> {
    nodes: &'a [NodeProto],
    /// Node numbers, each after all that it reads.
    order: Vec<usize>,
    makers: HashMap<&'a str, usize>,
    weights: HashMap<&'a str, &'a TensorProto>,
    classes: HashMap<&'a str, Class>,
    input: &'a str,
}

impl<'a> Graph<'a> {
    /// Sorts and classifies. Refuses names made twice, reads of what nothing makes, and circles.
    pub(crate) fn new(graph: &'a GraphProto, input: &'a str) -> Result<Self, String> {
        let mut makers = HashMap::new();
        for (number, node) in graph.node.iter().enumerate() {
            for name in node.makes() {
                if makers.insert(name, number).is_some() {
                    return Err(format!("tensor \"{name}\" is made twice, at last by {}", node.title()));
                }
            }
        }
        let weights: HashMap<&str, &TensorProto> =
            graph.initializer.iter().map(|tensor| (tensor.name(), tensor)).collect();
        let sparse: HashSet<&str> = graph
            .sparse_initializer
            .iter()
            .filter_map(|tensor| tensor.values.as_ref().map(TensorProto::name))
            .collect();
        let known = |name: &str| name == input || weights.contains_key(name) || sparse.contains(name);
        let order = sort(&graph.node, &makers, known)?;
        let mut classes: HashMap<&str, Class> = HashMap::from([(input, Class::Data)]);
        for node in order.iter().filter_map(|&number| graph.node.get(number)) {
            let class = classify(node, &classes);
            classes.extend(node.makes().map(|name| (name, class)));
        }
        Ok(Self { nodes: &graph.node, order, makers, weights, classes, input })
    }

    /// What a tensor depends on; initializers are constant.
    pub(crate) fn class(&self, name: &str) -> Class {
        self.classes.get(name).copied().unwrap_or(Class::Constant)
    }

    /// The initializer of that name.
    pub(crate) fn weight(&self, name: &str) -> Option<&'a TensorProto> {
        self.weights.get(name).copied()
    }

    /// The node that makes a tensor.
    pub(crate) fn maker(&self, name: &str) -> Option<&'a NodeProto> {
        self.makers.get(name).and_then(|&number| self.nodes.get(number))
    }

    /// The nodes that `ends` need, in order, walking back no further than `starts`.
    pub(crate) fn between(&self, starts: &[&str], ends: &[&str]) -> Vec<&'a NodeProto> {
        let mut wanted: HashSet<usize> = HashSet::new();
        let mut seen: HashSet<&str> = starts.iter().copied().collect();
        let mut open: Vec<&str> = ends.to_vec();
        while let Some(name) = open.pop() {
            if !seen.insert(name) {
                continue;
            }
            if let Some((&number, node)) = self.makers.get(name).and_then(|n| self.nodes.get(*n).map(|node| (n, node)))
                && wanted.insert(number)
            {
                open.extend(node.reads());
            }
        }
        self.order
            .iter()
            .filter(|number| wanted.contains(number))
            .filter_map(|&number| self.nodes.get(number))
            .collect()
    }

    /// Names of the tensors that everything from the input to `output` passes through, in order, both ends left out.
    ///
    /// A tensor is one exactly if, once it is made, no other tensor that depends on the picture is still to be read:
    /// in any valid order all that leads to it comes before it and all the rest after it.
    pub(crate) fn passes(&self, output: &str) -> Vec<&'a str> {
        let path: Vec<&NodeProto> = self
            .between(&[], &[output])
            .into_iter()
            .filter(|node| node.makes().any(|name| self.class(name) == Class::Data))
            .collect();
        let mut readers: HashMap<&str, usize> = HashMap::from([(output, 1)]);
        for node in &path {
            for name in self.data_reads(node) {
                *readers.entry(name).or_default() += 1;
            }
        }
        let mut live: BTreeSet<&str> = BTreeSet::from([self.input]);
        let mut passes = Vec::new();
        for node in path {
            for name in self.data_reads(node) {
                if let Some(left) = readers.get_mut(name) {
                    *left -= 1;
                    if *left == 0 {
                        live.remove(name);
                    }
                }
            }
            live.extend(node.makes().filter(|name| readers.contains_key(name)));
            if let Some(&only) = live.first()
                && live.len() == 1
                && node.makes().any(|name| name == only)
                && only != output
            {
                passes.push(only);
            }
        }
        passes
    }

    fn data_reads(&self, node: &'a NodeProto) -> BTreeSet<&'a str> {
        node.reads().into_iter().filter(|name| self.class(name) == Class::Data).collect()
    }
}

fn classify(node: &NodeProto, classes: &HashMap<&str, Class>) -> Class {
    if node.op_type().starts_with("Random") || matches!(node.op_type(), "Multinomial" | "Bernoulli") {
        return Class::Data;
    }
    let class = node.reads().iter().filter_map(|name| classes.get(name)).copied().max().unwrap_or(Class::Constant);
    match node.op_type() {
        "Shape" | "Size" => class.min(Class::Shape),
        _ => class,
    }
}

fn sort<'a>(
    nodes: &'a [NodeProto],
    makers: &HashMap<&'a str, usize>,
    known: impl Fn(&str) -> bool,
) -> Result<Vec<usize>, String> {
    let mut waiting = vec![0usize; nodes.len()];
    let mut readers: Vec<Vec<usize>> = vec![Vec::new(); nodes.len()];
    for (number, node) in nodes.iter().enumerate() {
        let reads: BTreeSet<&str> = node.reads().into_iter().collect();
        for name in reads {
            match makers.get(name) {
                Some(&maker) => {
                    if let (Some(list), Some(count)) = (readers.get_mut(maker), waiting.get_mut(number)) {
                        list.push(number);
                        *count += 1;
                    }
                }
                None if known(name) => {}
                None => return Err(format!("{} reads \"{name}\", which nothing makes", node.title())),
            }
        }
    }
    // Lowest number first: the exporter's own order wherever that is valid.
    let mut ready: BTreeSet<usize> = (0..nodes.len()).filter(|&number| waiting.get(number) == Some(&0)).collect();
    let mut order = Vec::with_capacity(nodes.len());
    while let Some(number) = ready.pop_first() {
        order.push(number);
        for &reader in readers.get(number).into_iter().flatten() {
            if let Some(count) = waiting.get_mut(reader) {
                *count -= 1;
                if *count == 0 {
                    ready.insert(reader);
                }
            }
        }
    }
    match nodes.iter().zip(&waiting).find(|(_, waiting)| **waiting > 0) {
        Some((node, _)) => Err(format!("the graph goes in a circle through {}", node.title())),
        None => Ok(order),
    }
}
