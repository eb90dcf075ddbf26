//! Which files of a repository make the model that was asked for.

use std::collections::BTreeMap;

use plan::size::size_text;
use proto::limits::MODEL_FILES_MAX;

use crate::listing::Listing;
use crate::manifest::WantedFile;
use crate::name::base_name;
use crate::{HubError, HubRef};

/// Files beside safetensors that a model cannot do without, and those that it may have.
const NEEDED: [&str; 2] = ["config.json", "tokenizer.json"];
const WELCOME: [&str; 3] = [
    "generation_config.json",
    "tokenizer_config.json",
    "chat_template.jinja",
];
const INDEX: &str = "model.safetensors.index.json";
const SINGLE: &str = "model.safetensors";
/// Models that a refusal lists.
const LISTED_MAX: usize = 24;

/// A GGUF model: one file, or all parts of a split one in order.
struct GgufModel<'l> {
    /// Path without number and ending.
    stem: &'l str,
    /// Parts that its names promise.
    count: u32,
    parts: Vec<&'l WantedFile>,
}

impl GgufModel<'_> {
    fn bytes(&self) -> u64 {
        let bytes = self.parts.iter().map(|part| part.bytes);
        bytes.fold(0, u64::saturating_add)
    }

    fn is_whole(&self) -> bool {
        self.parts.len() == usize::try_from(self.count).unwrap_or(usize::MAX)
    }

    /// A projector for images is no model of its own.
    fn is_model(&self) -> bool {
        !base_name(self.stem)
            .to_ascii_lowercase()
            .starts_with("mmproj")
    }
}

/// Chooses, or says what there is to choose from.
pub(crate) fn select(model: &HubRef, listing: &Listing) -> Result<Vec<WantedFile>, HubError> {
    let ggufs = gguf_models(listing);
    if let Some(wanted) = model.file() {
        return chosen(model, &ggufs, wanted);
    }
    if let Some(files) = safetensors(model, listing)? {
        return Ok(files);
    }
    let mut models = ggufs.iter().filter(|gguf| gguf.is_model());
    match (models.next(), models.next()) {
        (Some(only), None) => whole(model, only),
        (None, _) => Err(choice(
            model,
            "has neither GGUF files nor model.safetensors".to_owned(),
            "name a repository that has one of them",
        )),
        (Some(_), Some(_)) => Err(choice(
            model,
            format!("has several models: {}", list(&ggufs)),
            "name one, as in hf:ORG/REPO:Q4_K_M or with the file's whole name",
        )),
    }
}

fn choice(model: &HubRef, got: String, todo: &str) -> HubError {
    HubError::Choice {
        model: model.to_string(),
        got,
        todo: todo.to_owned(),
    }
}

fn list(ggufs: &[GgufModel<'_>]) -> String {
    let mut lines: Vec<String> = ggufs
        .iter()
        .filter(|gguf| gguf.is_model())
        .take(LISTED_MAX)
        .map(|gguf| format!("{} ({})", gguf.stem, size_text(gguf.bytes())))
        .collect();
    if ggufs.len() > LISTED_MAX {
        lines.push("..".to_owned());
    }
    lines.join(", ")
}

/// All GGUF models; parts are put together by their names.
fn gguf_models(listing: &Listing) -> Vec<GgufModel<'_>> {
    let mut models: BTreeMap<(&str, u32), GgufModel<'_>> = BTreeMap::new();
    for file in &listing.files {
        let Some(name) = file.path.strip_suffix(".gguf") else {
            continue;
        };
        let (stem, count) = match numbered(name) {
            Some((stem, _, count)) => (stem, count),
            None => (name, 1),
        };
        let model = models.entry((stem, count)).or_insert(GgufModel {
            stem,
            count,
            parts: Vec::new(),
        });
        // Sorted by path, so by number.
        model.parts.push(file);
    }
    models.into_values().collect()
}

/// `STEM-00002-of-00003` taken apart.
fn numbered(name: &str) -> Option<(&str, u32, u32)> {
    let number = |text: &str| -> Option<u32> {
        (text.len() == 5 && text.bytes().all(|b| b.is_ascii_digit()))
            .then(|| text.parse().ok())
            .flatten()
    };
    let (rest, count) = name.rsplit_once("-of-")?;
    let (stem, at) = rest.rsplit_once('-')?;
    let (at, count) = (number(at)?, number(count)?);
    (1..=count).contains(&at).then_some((stem, at, count))
}

/// The GGUF model that `wanted` names: a file's path or name, or a label such as `Q4_K_M` that only one has.
fn chosen(
    model: &HubRef,
    ggufs: &[GgufModel<'_>],
    wanted: &str,
) -> Result<Vec<WantedFile>, HubError> {
    let by_path = |gguf: &&GgufModel<'_>| {
        let mut paths = gguf.parts.iter().map(|part| part.path.as_str());
        paths.any(|path| path == wanted || base_name(path) == wanted)
    };
    let by_label =
        |gguf: &&GgufModel<'_>| gguf.is_model() && has_label(base_name(gguf.stem), wanted);
    let mut found: Vec<&GgufModel<'_>> = ggufs.iter().filter(by_path).collect();
    if found.is_empty() {
        found = ggufs.iter().filter(by_label).collect();
    }
    match found.as_slice() {
        [only] => whole(model, only),
        [] if ggufs.is_empty() => Err(choice(
            model,
            "has no GGUF files".to_owned(),
            "leave the file out to fetch its safetensors",
        )),
        [] => Err(choice(
            model,
            format!("has no such file; it has {}", list(ggufs)),
            "name one of these",
        )),
        several => Err(choice(
            model,
            format!("fits {} models", several.len()),
            "name the file with its folder",
        )),
    }
}

/// Whether `label` stands in `name` between characters that belong to no word.
fn has_label(name: &str, label: &str) -> bool {
    let (name, label) = (name.to_ascii_lowercase(), label.to_ascii_lowercase());
    let in_word = |c: char| c.is_alphanumeric() || c == '_';
    name.match_indices(&label).any(|(at, found)| {
        let before = name.get(..at).and_then(|text| text.chars().next_back());
        let after = name
            .get(at + found.len()..)
            .and_then(|text| text.chars().next());
        !before.is_some_and(in_word) && !after.is_some_and(in_word)
    })
}

fn whole(model: &HubRef, gguf: &GgufModel<'_>) -> Result<Vec<WantedFile>, HubError> {
    if !gguf.is_whole() || gguf.count > MODEL_FILES_MAX {
        return Err(choice(
            model,
            format!(
                "has {} of {} parts of {}",
                gguf.parts.len(),
                gguf.count,
                gguf.stem
            ),
            "name another model",
        ));
    }
    Ok(gguf.parts.iter().map(|part| (*part).clone()).collect())
}

/// The safetensors model at the top of the repository, if there is one.
fn safetensors(model: &HubRef, listing: &Listing) -> Result<Option<Vec<WantedFile>>, HubError> {
    let find = |path: &str| listing.files.iter().find(|file| file.path == path).cloned();
    let mut files = match (find(INDEX), find(SINGLE)) {
        (Some(index), _) => shards(model, listing, index)?,
        (None, Some(single)) => vec![single],
        (None, None) => return Ok(None),
    };
    for name in NEEDED {
        files.push(find(name).ok_or_else(|| {
            let got = format!("has safetensors, but no {name}");
            choice(model, got, "name a repository that has all of them")
        })?);
    }
    files.extend(WELCOME.into_iter().filter_map(find));
    Ok(Some(files))
}

/// All files `model-N-of-M.safetensors`, behind their index.
fn shards(
    model: &HubRef,
    listing: &Listing,
    index: WantedFile,
) -> Result<Vec<WantedFile>, HubError> {
    let mut files = vec![index];
    let mut promised = None;
    for file in &listing.files {
        let name = file.path.strip_suffix(".safetensors");
        if let Some(("model", _, count)) = name.and_then(numbered) {
            promised = promised.or(Some(count));
            files.push(file.clone());
        }
    }
    let have = files.len().saturating_sub(1);
    let count = promised.and_then(|count| usize::try_from(count).ok());
    if count != Some(have) || files.len() > usize::try_from(MODEL_FILES_MAX).unwrap_or(usize::MAX) {
        let got = format!("has {have} of {} safetensors files", count.unwrap_or(1));
        return Err(choice(model, got, "name another revision or repository"));
    }
    Ok(files)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::manifest::Checksum;

    fn listing(paths: &[&str]) -> Listing {
        let mut files: Vec<WantedFile> = paths
            .iter()
            .map(|path| WantedFile {
                path: (*path).to_owned(),
                bytes: 10,
                checksum: Checksum::Sha256("0".repeat(64)),
            })
            .collect();
        files.sort_by(|a, b| a.path.cmp(&b.path));
        Listing {
            commit: "0".repeat(40),
            files,
        }
    }

    fn paths(model: &str, listing: &Listing) -> Result<Vec<String>, String> {
        select(&model.parse().unwrap(), listing)
            .map(|files| files.into_iter().map(|file| file.path).collect())
            .map_err(|error| error.to_string())
    }

    #[test]
    fn gguf_models_are_found_by_file_label_or_being_alone() {
        let many = listing(&[
            "README.md",
            "m-Q4_K_M.gguf",
            "m-Q4_K_S.gguf",
            "Q8_0/m-Q8_0-00002-of-00002.gguf",
            "Q8_0/m-Q8_0-00001-of-00002.gguf",
            "mmproj-F16.gguf",
        ]);
        assert_eq!(
            paths("hf:a/b:m-Q4_K_S.gguf", &many).unwrap(),
            ["m-Q4_K_S.gguf"]
        );
        assert_eq!(paths("hf:a/b:q4_k_m", &many).unwrap(), ["m-Q4_K_M.gguf"]);
        let parts = [
            "Q8_0/m-Q8_0-00001-of-00002.gguf",
            "Q8_0/m-Q8_0-00002-of-00002.gguf",
        ];
        assert_eq!(paths("hf:a/b:Q8_0", &many).unwrap(), parts);
        assert_eq!(
            paths("hf:a/b:m-Q8_0-00002-of-00002.gguf", &many).unwrap(),
            parts
        );
        assert_eq!(paths("hf:a/b:mmproj-F16.gguf", &many).unwrap().len(), 1);
        let text = paths("hf:a/b", &many).unwrap_err();
        assert!(
            text.contains("m-Q4_K_M (10 B)") && !text.contains("mmproj"),
            "{text}"
        );
        assert!(
            paths("hf:a/b:Q4_K", &many)
                .unwrap_err()
                .contains("no such file")
        );
        let one = listing(&["m.gguf", "mmproj.gguf"]);
        assert_eq!(paths("hf:a/b", &one).unwrap(), ["m.gguf"]);
    }

    #[test]
    fn a_split_model_must_be_whole() {
        let torn = listing(&["m-00001-of-00003.gguf", "m-00003-of-00003.gguf"]);
        assert!(paths("hf:a/b", &torn).unwrap_err().contains("2 of 3"));
    }

    #[test]
    fn safetensors_come_with_what_they_need() {
        let sharded = listing(&[
            "config.json",
            "generation_config.json",
            "model-00001-of-00002.safetensors",
            "model-00002-of-00002.safetensors",
            "model.safetensors.index.json",
            "tokenizer.json",
            "training_args.bin",
            "pytorch_model.bin",
            "m.gguf",
        ]);
        let chosen = paths("hf:a/b", &sharded).unwrap();
        assert_eq!(chosen.len(), 6);
        assert!(
            !chosen
                .iter()
                .any(|path| path.ends_with(".bin") || path.ends_with(".gguf"))
        );
        let torn = listing(&[
            "config.json",
            "model-00001-of-00002.safetensors",
            "model.safetensors.index.json",
            "tokenizer.json",
        ]);
        assert!(paths("hf:a/b", &torn).unwrap_err().contains("1 of 2"));
        let bare = listing(&["model.safetensors", "config.json"]);
        assert!(
            paths("hf:a/b", &bare)
                .unwrap_err()
                .contains("tokenizer.json")
        );
        let none = listing(&["README.md"]);
        assert!(paths("hf:a/b", &none).unwrap_err().contains("neither"));
        assert!(
            paths("hf:a/b:x.gguf", &none)
                .unwrap_err()
                .contains("no GGUF")
        );
    }
}
