//! Which file of a crate imports which: read from the sources' tokens, re-exports followed to the file that defines the item.
//!
//! A path counts wherever it stands: in a `use`, grouped or not, or in the middle of the code (`super::x::f()`). What only a
//! test needs does not count, nor does a `pub use` whose name the file itself never says: that only shows an item elsewhere.

use std::collections::{BTreeMap, BTreeSet};

use proc_macro2::{Delimiter, TokenStream, TokenTree};

/// A crate's files and who imports whom.
#[derive(Debug)]
pub(crate) struct Imports {
    /// Paths below `src`.
    files: Vec<String>,
    /// From file to file, with the path that says so.
    edges: BTreeMap<usize, BTreeMap<usize, String>>,
}

impl Imports {
    /// Reads a crate from its files: paths below `src`, with slashes, and their text. It begins at `lib.rs`.
    ///
    /// # Panics
    /// When a file is no Rust, or a module has no file.
    pub(crate) fn read(sources: &BTreeMap<String, String>) -> Self {
        let mut tree = Tree { sources, files: Vec::new(), modules: Vec::new() };
        tree.read_file(None, "lib.rs".to_owned(), &[]);
        let mut edges: BTreeMap<usize, BTreeMap<usize, String>> = BTreeMap::new();
        for (number, module) in tree.modules.iter().enumerate() {
            let shown = module.shown.iter().filter(|shown| module.said.contains(shown.0)).map(|(_, path)| path);
            for path in module.paths.iter().chain(shown) {
                // To name a module alone is to need nothing of it yet.
                if let Some(Target::Item(to)) = tree.resolve(number, path, 0)
                    && to != module.file
                {
                    edges.entry(module.file).or_default().entry(to).or_insert_with(|| path.join("::"));
                }
            }
        }
        Self { files: tree.files, edges }
    }

    /// Every import: who, whom, and the path that says so.
    pub(crate) fn all(&self) -> Vec<(&str, &str, &str)> {
        let name = |file: &usize| self.files[*file].as_str();
        let pairs = self.edges.iter().flat_map(|(from, edges)| edges.iter().map(move |(to, path)| (from, to, path)));
        pairs.map(|(from, to, path)| (name(from), name(to), path.as_str())).collect()
    }

    /// Files that import each other, directly or by way of others: each set with a shortest way round, for people.
    pub(crate) fn circles(&self) -> Vec<(BTreeSet<&str>, String)> {
        let reach: Vec<BTreeSet<usize>> = (0..self.files.len()).map(|from| self.reach(from)).collect();
        let mut told = BTreeSet::new();
        let mut found = Vec::new();
        for from in 0..self.files.len() {
            let circle: BTreeSet<usize> = reach[from].iter().copied().filter(|to| reach[*to].contains(&from)).collect();
            if circle.contains(&from) && told.insert(circle.clone()) {
                found.push((circle.iter().map(|file| self.files[*file].as_str()).collect(), self.way_round(from)));
            }
        }
        found
    }

    fn next(&self, from: usize) -> impl Iterator<Item = usize> {
        self.edges.get(&from).into_iter().flatten().map(|(to, _)| *to)
    }

    /// All that a file needs; itself only if it stands in a circle.
    fn reach(&self, from: usize) -> BTreeSet<usize> {
        let (mut seen, mut open) = (BTreeSet::new(), vec![from]);
        while let Some(file) = open.pop() {
            open.extend(self.next(file).filter(|to| seen.insert(*to)));
        }
        seen
    }

    /// A shortest way from a file back to it, a line for each step.
    fn way_round(&self, from: usize) -> String {
        let mut ways = vec![vec![from]];
        let mut seen = BTreeSet::new();
        while let Some(way) = ways.iter().find(|way| way.len() == 1 || way.last() != Some(&from)).cloned() {
            let longer: Vec<Vec<usize>> = ways.iter().flat_map(|way| self.steps(way)).collect();
            if let Some(round) = longer.iter().find(|way| way.last() == Some(&from)) {
                let line =
                    |pair: &[usize]| format!("  {} says {}\n", self.files[pair[0]], self.edges[&pair[0]][&pair[1]]);
                return round.windows(2).map(line).collect();
            }
            ways = longer.into_iter().filter(|way| seen.insert(way[way.len() - 1])).collect();
            assert!(!ways.is_empty(), "no way back from {way:?}");
        }
        String::new()
    }

    fn steps(&self, way: &[usize]) -> Vec<Vec<usize>> {
        self.next(way[way.len() - 1]).map(|to| [way, &[to]].concat()).collect()
    }
}

type Path = Vec<String>;

#[derive(Debug, Default)]
struct Module {
    parent: Option<usize>,
    file: usize,
    children: BTreeMap<String, usize>,
    /// What is defined here.
    items: BTreeSet<String>,
    /// Names that `use` brings here, and what they stand for.
    uses: BTreeMap<String, Path>,
    /// Paths that the code needs.
    paths: BTreeSet<Path>,
    /// What `pub use` shows, by the name that it gets here.
    shown: BTreeMap<String, Path>,
    /// Every name that stands in the code outside `use`.
    said: BTreeSet<String>,
}

/// What a path stands for.
enum Target {
    Module(usize),
    /// An item, by the file that defines it.
    Item(usize),
}

struct Tree<'s> {
    sources: &'s BTreeMap<String, String>,
    files: Vec<String>,
    modules: Vec<Module>,
}

impl Tree<'_> {
    fn read_file(&mut self, parent: Option<usize>, file: String, place: &[String]) -> usize {
        let text = self.sources.get(&file).unwrap_or_else(|| panic!("module {} has no file", place.join("::")));
        let tokens: TokenStream = text.parse().unwrap_or_else(|error| panic!("{file}: {error}"));
        self.files.push(file);
        self.read_module(parent, self.files.len() - 1, place, tokens)
    }

    fn read_module(&mut self, parent: Option<usize>, file: usize, place: &[String], tokens: TokenStream) -> usize {
        let number = self.modules.len();
        self.modules.push(Module { parent, file, ..Module::default() });
        let tokens: Vec<TokenTree> = tokens.into_iter().collect();
        let mut at = 0;
        while let Some(token) = tokens.get(at) {
            at += match (token, tokens.get(at + 1)) {
                (TokenTree::Punct(mark), Some(TokenTree::Group(attribute))) if mark.as_char() == '#' => {
                    let test = attribute.stream().to_string().replace(' ', "") == "cfg(test)";
                    2 + if test { item_length(&tokens[at + 2..]) } else { 0 }
                }
                (TokenTree::Ident(word), Some(TokenTree::Ident(name))) if word == "mod" => {
                    let place = [place, &[name.to_string()]].concat();
                    let child = match tokens.get(at + 2) {
                        Some(TokenTree::Group(body)) => self.read_module(Some(number), file, &place, body.stream()),
                        _ => self.read_file(Some(number), self.file_name(&place), &place),
                    };
                    self.modules[number].children.insert(name.to_string(), child);
                    3
                }
                _ => self.modules[number].read(&tokens[at..], true),
            };
        }
        number
    }

    fn file_name(&self, place: &[String]) -> String {
        let flat = format!("{}.rs", place.join("/"));
        if self.sources.contains_key(&flat) { flat } else { format!("{}/mod.rs", place.join("/")) }
    }

    /// What a path that stands in a module means; none: something of another crate, or of this module's own.
    fn resolve(&self, at: usize, path: &[String], depth: usize) -> Option<Target> {
        let (first, mut rest) = path.split_first()?;
        let parent = |module: usize| self.modules[module].parent.map(Target::Module);
        let mut target = match first.as_str() {
            "crate" => Target::Module(0),
            "self" => Target::Module(at),
            "super" => parent(at)?,
            name => self.look_up(at, name, depth)?,
        };
        while let (Target::Module(module), Some((name, more))) = (&target, rest.split_first()) {
            target = match name.as_str() {
                "self" => Target::Module(*module),
                "super" => parent(*module)?,
                // A macro may have made what is not found.
                name => self.look_up(*module, name, depth).unwrap_or(Target::Item(self.modules[*module].file)),
            };
            rest = more;
        }
        Some(target)
    }

    fn look_up(&self, at: usize, name: &str, depth: usize) -> Option<Target> {
        let module = &self.modules[at];
        if let Some(child) = module.children.get(name) {
            return Some(Target::Module(*child));
        }
        if module.items.contains(name) {
            return Some(Target::Item(module.file));
        }
        // `use other::other` leads back to its own name.
        let path = module.uses.get(name).filter(|path| depth < 16 && path[0] != name)?;
        self.resolve(at, path, depth + 1)
    }
}

impl Module {
    /// Reads what begins here; gives the number of tokens. `top`: what is defined here others can import.
    fn read(&mut self, tokens: &[TokenTree], top: bool) -> usize {
        const ITEMS: [&str; 9] = ["struct", "enum", "union", "trait", "type", "fn", "const", "static", "macro_rules"];
        match &tokens[0] {
            TokenTree::Ident(word) if word == "use" => self.read_use(tokens, false),
            TokenTree::Ident(word) if word == "pub" => {
                let limited = matches!(tokens.get(1), Some(TokenTree::Group(group)) if group.delimiter() == Delimiter::Parenthesis);
                let length = 1 + usize::from(limited);
                let shows = matches!(tokens.get(length), Some(TokenTree::Ident(word)) if word == "use");
                length + if shows { self.read_use(&tokens[length..], true) } else { 0 }
            }
            TokenTree::Ident(word) if top && ITEMS.iter().any(|item| word == item) => {
                let name = tokens.iter().skip(1).find_map(|token| match token {
                    TokenTree::Ident(name) if !["fn", "unsafe", "mut", "async"].iter().any(|word| name == word) => {
                        Some(name.to_string())
                    }
                    _ => None,
                });
                self.items.extend(name);
                1
            }
            TokenTree::Ident(_) => {
                let path = path_at(tokens);
                let length = 3 * path.len() - 2;
                self.said.insert(path[0].clone());
                self.paths.extend((path.len() > 1).then_some(path));
                length
            }
            // `::other::x` is another crate's, `<T>::x` is the type's own.
            TokenTree::Punct(_) if is_separator(tokens) => {
                2 + if matches!(tokens.get(2), Some(TokenTree::Ident(_))) {
                    3 * path_at(&tokens[2..]).len() - 2
                } else {
                    0
                }
            }
            TokenTree::Group(group) => {
                let inner: Vec<TokenTree> = group.stream().into_iter().collect();
                let mut at = 0;
                while at < inner.len() {
                    at += self.read(&inner[at..], false);
                }
                1
            }
            _ => 1,
        }
    }

    fn read_use(&mut self, tokens: &[TokenTree], shows: bool) -> usize {
        let end = tokens.iter().position(|token| is(token, ';')).unwrap_or(tokens.len());
        for (name, path) in use_tree(&tokens[1..end], &[]) {
            if shows {
                self.shown.insert(name.clone(), path.clone());
            } else {
                self.paths.insert(path.clone());
            }
            self.uses.insert(name, path);
        }
        end + 1
    }
}

/// Names that a `use` brings, and their paths. A glob brings none: outside tests there shall be none.
fn use_tree(tokens: &[TokenTree], before: &[String]) -> Vec<(String, Path)> {
    let Some(TokenTree::Ident(_)) = tokens.first() else {
        let Some(TokenTree::Group(group)) = tokens.first() else { return Vec::new() };
        let inner: Vec<TokenTree> = group.stream().into_iter().collect();
        return inner.split(|token| is(token, ',')).flat_map(|part| use_tree(part, before)).collect();
    };
    let own = path_at(tokens);
    let rest = &tokens[3 * own.len() - 2..];
    let path = [before, &own].concat();
    match rest {
        [TokenTree::Ident(word), TokenTree::Ident(name)] if word == "as" => vec![(name.to_string(), path)],
        [_, _, more @ ..] if is_separator(rest) => use_tree(more, &path),
        _ => {
            let name = path.iter().rev().find(|name| *name != "self").cloned().unwrap_or_default();
            vec![(name, path)]
        }
    }
}

/// Names joined by `::` from the first token on.
fn path_at(tokens: &[TokenTree]) -> Path {
    let mut path = Vec::new();
    let mut at = 0;
    while let Some(TokenTree::Ident(name)) = tokens.get(at) {
        path.push(name.to_string());
        let goes_on = is_separator(&tokens[at + 1..]) && matches!(tokens.get(at + 3), Some(TokenTree::Ident(_)));
        if !goes_on {
            break;
        }
        at += 3;
    }
    path
}

fn is_separator(tokens: &[TokenTree]) -> bool {
    matches!(tokens, [first, second, ..] if is(first, ':') && is(second, ':'))
}

fn is(token: &TokenTree, mark: char) -> bool {
    matches!(token, TokenTree::Punct(punct) if punct.as_char() == mark)
}

/// Tokens of the item that begins here: up to its body or its semicolon.
fn item_length(tokens: &[TokenTree]) -> usize {
    let ends = |token: &TokenTree| {
        is(token, ';') || matches!(token, TokenTree::Group(group) if group.delimiter() == Delimiter::Brace)
    };
    tokens.iter().position(ends).map_or(tokens.len(), |end| end + 1)
}
