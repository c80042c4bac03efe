use std::collections::HashMap;
use std::sync::PoisonError;
use std::time::{Duration, Instant, SystemTime};

use futures_util::{StreamExt as _, TryStreamExt as _, stream};

use super::bucket_store::{BucketStore, entry_object, names_own_payload};
use super::index::{Index, IndexEntry, MAX_PART, MAX_PARTS, PART, part_name};
use super::objects::{Listed, unavailable};
use crate::store::entry_metadata::MAX_DOCUMENT;
use crate::store::filesystem::layout::{FileKind, classify, stem};
use crate::store::{EntryMetadata, StoreError};

/// A description that was read before, in the state that had this tag.
#[derive(Clone)]
pub(super) struct Known {
    e_tag: String,
    /// The sealed document as it was read.
    document: String,
    /// `None` when it is damaged.
    metadata: Option<EntryMetadata>,
}

/// What is in the store, from one listing.
pub(super) struct Inventory {
    pub(super) entries: Vec<EntryMetadata>,
    /// Descriptions that cannot be used, by stem.
    pub(super) damaged: Vec<String>,
    pub(super) objects: Vec<Listed>,
    /// Descriptions that there was no time to read.
    left: usize,
    /// What the index should hold, where it lacks much.
    to_index: Option<HashMap<String, Known>>,
}

/// From this many unknown descriptions on, reading the index pays; it is one request as well.
const READ_INDEX_FROM: usize = 3;

/// From this many descriptions that the index did not know on, it is written anew; in a large
/// store from one in so many.
const WRITE_INDEX_FROM: usize = 16;
const WRITE_INDEX_ONE_IN: usize = 50;

/// Descriptions that are read at once.
const PARALLEL_READS: usize = 16;

impl BucketStore {
    pub(super) async fn list_all(&self, prefix: &str) -> Result<Vec<EntryMetadata>, StoreError> {
        let budget = self.options.budget;
        let list = self.inventory(budget / 2);
        let inventory = self.objects.within(prefix, budget, list).await?;
        let inventory = self.complete(inventory).await?;
        let sizes: HashMap<&str, u64> = inventory
            .objects
            .iter()
            .map(|object| (object.name.as_str(), object.size))
            .collect();
        let mut entries = inventory.entries;
        entries.retain(|entry| {
            entry.key.as_str().starts_with(prefix)
                && sizes.get(entry.payload.as_str()) == Some(&entry.packed_size)
        });
        entries.sort_by(|a, b| a.key.cmp(&b.key));
        Ok(entries)
    }

    /// Writes the index anew if it is worth it. An error if anything is left to read: the service
    /// answered all the while, so it is not found unavailable by that, and the next call goes on
    /// where this one stopped.
    pub(super) async fn complete(&self, mut inventory: Inventory) -> Result<Inventory, StoreError> {
        if let Some(known) = inventory.to_index.take() {
            let write = self.write_index(&known);
            let _ = tokio::time::timeout(self.options.silence_timeout, write).await;
        }
        match inventory.left {
            0 => Ok(inventory),
            left => {
                let why =
                    format!("{left} descriptions are left to read; the next call goes on there");
                Err(unavailable("entries", &why))
            }
        }
    }

    /// One listing, and a request for each description that nobody read before, until a time is
    /// over.
    pub(super) async fn inventory(&self, enough: Duration) -> Result<Inventory, StoreError> {
        let until = Instant::now() + enough;
        let objects = self.objects.list("entries").await?;
        let mut uses: HashMap<&str, SystemTime> = HashMap::new();
        let mut descriptions: Vec<&Listed> = Vec::new();
        for object in &objects {
            if let Some(stem) = object.name.strip_suffix(".used") {
                uses.insert(stem, object.modified);
            } else if matches!(classify(&object.name), FileKind::Description { .. }) {
                descriptions.push(object);
            }
        }
        let (documents, left, is_news) = self.documents(&descriptions, until).await?;
        let (mut entries, mut damaged) = (Vec::new(), Vec::new());
        for object in descriptions {
            let named = object.name.trim_end_matches(".json");
            // Gone between the listing and now.
            let Some(known) = documents.get(&object.name) else {
                continue;
            };
            match &known.metadata {
                Some(metadata) => {
                    let mut metadata = metadata.clone();
                    let used = uses.get(named).copied();
                    metadata.last_used = used.max(Some(object.modified));
                    entries.push(metadata);
                }
                None => damaged.push(named.to_owned()),
            }
        }
        Ok(Inventory {
            entries,
            damaged,
            objects,
            left,
            to_index: is_news.then_some(documents),
        })
    }

    /// What is known of descriptions, of how many nothing is, and whether the index lacks much of it.
    async fn documents(
        &self,
        listed: &[&Listed],
        until: Instant,
    ) -> Result<(HashMap<String, Known>, usize, bool), StoreError> {
        let mut known = self.memory();
        let is_known = |known: &HashMap<String, Known>, object: &Listed| {
            known
                .get(&object.name)
                .is_some_and(|known| object.version.is(&known.e_tag))
        };
        let versions: HashMap<&str, &Listed> = listed
            .iter()
            .map(|object| (object.name.as_str(), *object))
            .collect();
        known.retain(|name, known| {
            let object = versions.get(name.as_str());
            object.is_some_and(|object| object.version.is(&known.e_tag))
        });
        let unknown = |known: &HashMap<String, Known>| -> Vec<String> {
            listed
                .iter()
                .filter(|object| !is_known(known, object))
                .map(|object| object.name.clone())
                .collect()
        };
        let mut missing = unknown(&known);
        if missing.len() >= READ_INDEX_FROM {
            for (name, entry) in self.read_index().await? {
                known.entry(name).or_insert(entry);
            }
            missing = unknown(&known);
        }
        let count = missing.len();
        let left = self.read_missing(missing, &mut known, until).await?;
        let there: HashMap<String, Known> = listed
            .iter()
            .filter_map(|object| known.remove_entry(&object.name))
            .collect();
        let is_news = count >= WRITE_INDEX_FROM.max(there.len() / WRITE_INDEX_ONE_IN) || left > 0;
        *self.known.lock().unwrap_or_else(PoisonError::into_inner) = there.clone();
        Ok((there, left, is_news))
    }

    /// Reads descriptions while there is time, and says how many are left. What was read stays
    /// known, whatever comes of the rest.
    async fn read_missing(
        &self,
        missing: Vec<String>,
        known: &mut HashMap<String, Known>,
        until: Instant,
    ) -> Result<usize, StoreError> {
        let mut left = missing.len();
        let mut reads = stream::iter(missing)
            .map(|name| self.read_known(name))
            .buffer_unordered(PARALLEL_READS);
        while let Some(read) = reads.try_next().await? {
            left -= 1;
            if let Some((name, read)) = read {
                let mut memory = self.known.lock().unwrap_or_else(PoisonError::into_inner);
                memory.insert(name.clone(), read.clone());
                drop(memory);
                known.insert(name, read);
            }
            if Instant::now() > until {
                break;
            }
        }
        Ok(left)
    }

    /// A description as it is now; `None` when it is gone.
    async fn read_known(&self, name: String) -> Result<Option<(String, Known)>, StoreError> {
        let object = entry_object(&name);
        let object = self.objects.read(&object, MAX_DOCUMENT).await?;
        Ok(object.map(|object| {
            let tag = object.version.e_tag.unwrap_or_default();
            let document = String::from_utf8_lossy(&object.bytes).into_owned();
            let known = Known::new(&name, tag, document);
            (name, known)
        }))
    }

    fn memory(&self) -> HashMap<String, Known> {
        self.known
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    async fn read_index(&self) -> Result<Vec<(String, Known)>, StoreError> {
        let mut entries = Vec::new();
        let first = self.read_part(0, &mut entries).await?;
        let parts = stream::iter(1..first.min(MAX_PARTS));
        let others: Vec<Vec<IndexEntry>> = parts
            .map(|number| async move {
                let mut entries = Vec::new();
                self.read_part(number, &mut entries).await?;
                Ok::<_, StoreError>(entries)
            })
            .buffer_unordered(self.options.parallel)
            .try_collect()
            .await?;
        entries.extend(others.into_iter().flatten());
        Ok(entries
            .into_iter()
            .map(|entry| {
                let known = Known::new(&entry.name, entry.tag, entry.document);
                (entry.name, known)
            })
            .filter(|(_, known)| known.metadata.is_some())
            .collect())
    }

    /// Reads a part of the index, and says how many parts it speaks of. Whatever is wrong with it,
    /// descriptions can be read one by one.
    async fn read_part(
        &self,
        number: usize,
        entries: &mut Vec<IndexEntry>,
    ) -> Result<usize, StoreError> {
        let object = self.objects.read(&part_name(number), MAX_PART).await?;
        let index = object.and_then(|object| Index::decode(&object.bytes));
        Ok(index.map_or(0, |index| {
            entries.extend(index.entries);
            index.parts
        }))
    }

    /// The last writer wins; a read-only bucket has no index.
    async fn write_index(&self, known: &HashMap<String, Known>) {
        let entries = known
            .iter()
            .filter(|(_, known)| known.metadata.is_some() && !known.e_tag.is_empty())
            .map(|(name, known)| IndexEntry {
                name: name.clone(),
                tag: known.e_tag.clone(),
                document: known.document.clone(),
            });
        for (number, bytes) in Index::encode(entries.collect(), PART)
            .into_iter()
            .enumerate()
        {
            let name = part_name(number);
            if self.objects.write(&name, bytes.into()).await.is_err() {
                return;
            }
        }
    }
}

impl Known {
    fn new(name: &str, e_tag: String, document: String) -> Self {
        let metadata = EntryMetadata::from_document(document.as_bytes())
            .ok()
            .filter(|metadata| {
                name.strip_suffix(".json") == Some(stem(&metadata.key).as_str())
                    && names_own_payload(metadata)
            });
        Self {
            e_tag,
            document,
            metadata,
        }
    }
}
