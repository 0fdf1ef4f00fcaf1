//! What is kept outlives the host, what cannot be kept is not done, and what is damaged is refused by name.

use crate::guests::{Guest, built};
use crate::{decide, document, host, sized_host};
use serde_json::json;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::Instant;
use waspmq_core::policy::{Policies, Verdict};
use waspmq_policy::{
    Archive, ArchiveError, AuditEntry, BadManifest, Host, Mode, PromoteError, PutError, RemoveError,
    RestoreError, RollbackError, Unfit,
};

/// An archive in memory that can be full and damaged.
#[derive(Debug, Default)]
pub(crate) struct Shelf(Mutex<Kept>);

#[derive(Debug, Default, Clone)]
struct Kept {
    manifest: Option<Vec<u8>>,
    components: BTreeMap<String, Vec<u8>>,
    changes: Vec<AuditEntry>,
    is_full: bool,
    /// Only the manifest is refused.
    refuses_commits: bool,
    /// When manifests that are no change were refused.
    replaces_refused: Vec<Instant>,
}

impl Shelf {
    fn change<T>(&self, change: impl FnOnce(&mut Kept) -> T) -> T {
        change(&mut self.0.lock().unwrap())
    }

    pub(crate) fn refuse(&self, refuses_commits: bool) {
        self.change(|kept| kept.refuses_commits = refuses_commits);
    }

    pub(crate) fn replaces_refused(&self) -> Vec<Instant> {
        self.change(|kept| kept.replaces_refused.clone())
    }

    pub(crate) fn changes(&self) -> usize {
        self.change(|kept| kept.changes.len())
    }

    pub(crate) fn last_change(&self) -> AuditEntry {
        self.change(|kept| kept.changes.last().cloned().unwrap())
    }

    pub(crate) fn change_at(&self, index: usize) -> AuditEntry {
        self.change(|kept| kept.changes[index].clone())
    }

    /// Changes what the manifest says, as somebody would who knows its checksum.
    pub(crate) fn edit_manifest(&self, from: &str, to: &str) {
        self.change(|kept| {
            let text = String::from_utf8(kept.manifest.take().unwrap()).unwrap();
            let (_, contents) = text.trim_end().split_once("\"contents\":").unwrap();
            let contents = contents.strip_suffix('}').unwrap().replace(from, to);
            let digest = blake3::hash(contents.as_bytes()).to_hex();
            let text = format!("{{\"format\":1,\"digest\":\"{digest}\",\"contents\":{contents}}}\n");
            kept.manifest = Some(text.into_bytes());
        });
    }

    pub(crate) fn lose_components(&self) {
        self.change(|kept| kept.components.clear());
    }
}

impl Archive for Shelf {
    fn now_unix_ms(&self) -> u64 {
        1_000 + self.0.lock().unwrap().changes.len() as u64
    }

    fn load_manifest(&self) -> Result<Option<Vec<u8>>, ArchiveError> {
        Ok(self.change(|kept| kept.manifest.clone()))
    }

    fn load_component(&self, digest: &str) -> Result<Vec<u8>, ArchiveError> {
        let found = self.change(|kept| kept.components.get(digest).cloned());
        let found = found.filter(|bytes| blake3::hash(bytes).to_hex().as_str() == digest);
        found.ok_or_else(|| ArchiveError::Failed { reason: format!("{digest} is not what it was") })
    }

    fn save_component(&self, digest: &str, bytes: &[u8]) -> Result<(), ArchiveError> {
        self.change(|kept| {
            if kept.is_full {
                return Err(ArchiveError::Full { reason: digest.to_owned() });
            }
            kept.components.insert(digest.to_owned(), bytes.to_vec());
            Ok(())
        })
    }

    fn commit(&self, manifest: &[u8], change: &AuditEntry) -> Result<(), ArchiveError> {
        self.change(|kept| {
            if kept.is_full || kept.refuses_commits {
                return Err(ArchiveError::Full { reason: "policies.json".to_owned() });
            }
            kept.manifest = Some(manifest.to_vec());
            kept.changes.push(change.clone());
            Ok(())
        })
    }

    fn replace(&self, manifest: &[u8]) -> Result<(), ArchiveError> {
        self.change(|kept| {
            if kept.is_full || kept.refuses_commits {
                kept.replaces_refused.push(crate::now());
                return Err(ArchiveError::Full { reason: "policies.json".to_owned() });
            }
            kept.manifest = Some(manifest.to_vec());
            Ok(())
        })
    }

    fn note(&self, change: &AuditEntry) -> Result<(), ArchiveError> {
        self.change(|kept| kept.changes.push(change.clone()));
        Ok(())
    }

    fn remove_component(&self, digest: &str) {
        self.change(|kept| kept.components.remove(digest));
    }

    fn keep_components(&self, digests: &BTreeSet<String>) {
        self.change(|kept| kept.components.retain(|digest, _| digests.contains(digest)));
    }
}

/// Another host that goes on where the archive's last one ended.
pub(crate) fn next(shelf: &Arc<Shelf>, policies_max: usize) -> Arc<Host> {
    let host = sized_host(1, policies_max);
    host.open_archive(shelf.clone()).unwrap();
    host
}

fn stamp(host: &Host, name: &str, plugin: &str, text: &str, more: serde_json::Value) {
    let mut fields = json!({ "config": { "stamp": text } });
    fields.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    host.put_policy(name, document(plugin, &[&format!("topic/{name}")], fields), "test").unwrap();
}

fn stamped(host: &Host, name: &str) -> Vec<String> {
    let verdict = decide(&mut host.worker(0), &format!("topic/{name}"));
    verdict.set_headers.into_iter().map(|(_, value)| value).collect()
}

/// Two revisions of `stamp`; `a` on the second with the first to go back to, `b` on the first, `c` off.
fn stamps() -> (Arc<Shelf>, Arc<Host>) {
    let shelf = Arc::new(Shelf::default());
    let host = next(&shelf, 4);
    host.upload("stamp", &built("stamp-a"), "test").unwrap();
    host.upload("stamp", &built("stamp-b"), "test").unwrap();
    stamp(&host, "a", "stamp@1", "first", json!({}));
    stamp(&host, "a", "stamp", "second", json!({ "order": 7 }));
    stamp(&host, "b", "stamp@1", "b", json!({ "on_failure": "closed" }));
    stamp(&host, "c", "stamp@1", "c", json!({ "mode": "off" }));
    (shelf, host)
}

#[test]
fn everything_is_as_it_was() {
    let (shelf, before) = stamps();
    let (plugins, generation) = (before.plugin("stamp"), before.generation());
    assert_eq!(generation, 4);
    drop(before);
    let host = sized_host(2, 4);
    let restored = host.open_archive(shelf.clone()).unwrap();
    assert_eq!((restored.revisions, restored.policies, restored.generation), (2, 3, 4));
    assert_eq!((restored.refused_revisions, restored.refused_policies), (0, 0));
    assert_eq!((host.plugin("stamp"), host.generation()), (plugins, generation));
    let state = |name: &str| host.policy(name).unwrap();
    assert_eq!((state("a").generation, state("b").generation, state("c").generation), (2, 3, 4));
    assert_eq!(
        (state("a").current.unwrap().revision, state("a").current.unwrap().document.order),
        (Some(2), 7)
    );
    assert_eq!(state("a").current.unwrap().document.plugin.as_deref(), Some("stamp"), "as it was written");
    assert_eq!(state("a").previous.unwrap().revision, Some(1));
    assert_eq!(state("c").current.unwrap().document.mode, Mode::Off);
    assert_eq!(
        (stamped(&host, "a"), stamped(&host, "b")),
        (vec!["second".into(), "2".into()], vec!["b".into(), "1".into()])
    );
    assert!(stamped(&host, "c").is_empty());
    // And goes on from there.
    let state = host.rollback("a", None, "test").unwrap();
    assert_eq!((state.current.unwrap().revision, state.generation), (Some(1), 5));
    assert_eq!(host.upload("stamp", &built("stamp-a"), "test").unwrap().revision, 3);
    assert_eq!(host.upload("stamp", &built("stamp-a"), "test").unwrap().revision, 3);
    let host = next(&shelf, 4);
    assert_eq!((stamped(&host, "a"), host.generation()), (vec!["first".to_owned(), "1".to_owned()], 5));
    assert_eq!(host.policy("a").unwrap().previous.unwrap().revision, Some(2));
}

#[test]
fn every_change_is_noted_with_its_component() {
    let (shelf, host) = stamps();
    host.remove_policy("c", "test").unwrap();
    let changes = shelf.change(|kept| kept.changes.clone());
    let show = |change: &AuditEntry| {
        format!(
            "{} {} | {} {} | {} > {} | {}",
            change.unix_ms, change.who, change.what, change.name, change.from, change.to, change.generation
        )
    };
    assert_eq!(show(&changes[0]), "1000 test | plugin upload stamp | 0 > 1 | 0");
    assert_eq!(changes[1].details["digest"], host.plugin("stamp").unwrap()[1].digest);
    assert_eq!(show(&changes[3]), "1003 test | policy put a | stamp@1 > stamp@2 | 2");
    assert_eq!(show(&changes[6]), "1006 test | policy remove c | stamp@1 (off) >  | 5");
    assert_eq!(changes.len(), 7);
}

#[test]
fn what_cannot_be_kept_is_not_done() {
    let (shelf, host) = stamps();
    host.upload("spare", &Guest::default().build(), "test").unwrap();
    let seen = |host: &Host| {
        (host.generation(), host.policies(), host.plugins(), host.plugin("stamp"), host.plugin("spare"))
    };
    let (before, kept) = (seen(&host), shelf.change(|kept| kept.clone()));
    for is_full in [true, false] {
        shelf.change(|kept| (kept.is_full, kept.refuses_commits) = (is_full, !is_full));
        let refused = host.upload("other", &Guest::answering(1, &[], ""), "test");
        assert!(matches!(refused, Err(Unfit::NotKept(ArchiveError::Full { .. }))), "{refused:?}");
        let refused = host.upload("stamp", &built("stamp-a"), "test");
        assert!(matches!(refused, Err(Unfit::NotKept(_))), "{refused:?}");
        let with = json!({ "config": { "stamp": "x" } });
        let refused = host.put_policy("a", document("stamp@1", &["topic/a"], with.clone()), "test");
        assert!(matches!(refused, Err(PutError::NotKept(_))), "{refused:?}");
        let refused = host.put_policy("new", document("stamp@1", &["topic/new"], with), "test");
        assert!(matches!(refused, Err(PutError::NotKept(_))), "{refused:?}");
        let refused = host.rollback("a", None, "test");
        assert!(matches!(refused, Err(RollbackError::Put(PutError::NotKept(_)))), "{refused:?}");
        assert!(matches!(host.remove_policy("a", "test"), Err(RemoveError::NotKept(_))));
        assert!(matches!(host.remove_plugin("spare", "test"), Err(RemoveError::NotKept(_))));
        assert_eq!(seen(&host), before);
    }
    assert_eq!(stamped(&host, "a"), ["second", "2"]);
    shelf.change(|now| {
        assert_eq!(
            (&now.manifest, &now.components, now.changes.len()),
            (&kept.manifest, &kept.components, kept.changes.len())
        );
        now.refuses_commits = false;
    });
    host.rollback("a", None, "test").unwrap();
}

#[test]
fn a_damaged_component_costs_only_what_needs_it() {
    let (shelf, before) = stamps();
    host_with_mirror(&before);
    let second = before.plugin("stamp").unwrap()[1].digest.clone();
    drop(before);
    let whole = shelf
        .change(|kept| kept.components.insert(second.clone(), b"\0asm something else".to_vec()).unwrap());
    let host = next(&shelf, 4);
    assert_eq!(host.generation(), 5);
    assert_eq!((stamped(&host, "b"), host.policies().len()), (vec!["b".to_owned(), "1".to_owned()], 3));
    let revisions = host.refused_revisions(Some("stamp"));
    assert_eq!((revisions.len(), revisions[0].revision, &revisions[0].digest), (1, 2, &second));
    assert_eq!((revisions[0].name.as_str(), &host.refused_revisions(None)), ("stamp", &revisions));
    let missing = |plugin: &str| {
        host.put_policy("e", document(plugin, &["topic/e"], json!({})), "test").unwrap_err().to_string()
    };
    let why = missing("stamp@2");
    assert!(why.starts_with("revision 2 of plugin \"stamp\" is refused") && why.contains(&second), "{why}");
    assert_eq!(missing("stamp@3"), "plugin \"stamp\" has no revision 3: the last one is 2");
    let refused = host.refused_policies();
    assert_eq!((refused.len(), refused[0].name.as_str(), refused[0].revision), (1, "a", Some(2)));
    for part in ["stamp@2", &second, "not what it was"] {
        assert!(refused[0].reason.contains(part), "{part}: {}", refused[0].reason);
    }
    assert!(stamped(&host, "a").is_empty() && host.policy("a").is_none());
    let rollback = host.rollback("a", None, "test").unwrap_err();
    assert!(matches!(rollback, RollbackError::Refused { .. }));
    let promote = host.promote("a", None, "test").unwrap_err();
    assert!(matches!(promote, PromoteError::Refused { .. }));
    assert_eq!(promote.to_string(), rollback.to_string());
    let in_use = RemoveError::InUse { name: "stamp".to_owned(), policy: "b".to_owned() };
    assert_eq!(host.remove_plugin("stamp", "test"), Err(in_use));
    // A change in between does not forget what was refused.
    stamp(&host, "c", "stamp@1", "c", json!({}));
    assert_eq!(host.upload("stamp", &Guest::default().build(), "test").unwrap().revision, 3);
    shelf.change(|kept| kept.components.insert(second.clone(), whole));
    let host = next(&shelf, 4);
    assert!(host.refused_policies().is_empty() && host.refused_revisions(Some("stamp")).is_empty());
    assert_eq!(
        (stamped(&host, "a"), stamped(&host, "c")),
        (vec!["second".to_owned(), "2".to_owned()], vec!["c".to_owned(), "1".to_owned()])
    );
    let kept: Vec<u32> = host.plugin("stamp").unwrap().iter().map(|revision| revision.revision).collect();
    assert_eq!(kept, [1, 2, 3]);
}

fn host_with_mirror(host: &Host) {
    host.upload("mirror", &built("route-mirror"), "test").unwrap();
    let config = json!({ "config": { "to": "topic/audit" } });
    host.put_policy("d", document("mirror", &["topic/d"], config), "test").unwrap();
}

#[test]
fn a_refused_policy_is_put_anew_or_removed() {
    let (shelf, before) = stamps();
    let second = before.plugin("stamp").unwrap()[1].digest.clone();
    drop(before);
    shelf.change(|kept| kept.components.remove(&second));
    let host = next(&shelf, 4);
    stamp(&host, "a", "stamp@1", "anew", json!({}));
    assert!(host.refused_policies().is_empty());
    assert_eq!(stamped(&host, "a"), ["anew", "1"]);
    let host = next(&shelf, 1);
    let refused = host.refused_policies();
    assert_eq!(refused.iter().map(|policy| policy.name.as_str()).collect::<Vec<_>>(), ["b", "c"]);
    assert!(refused[0].reason.contains("room for 1 policies"), "{}", refused[0].reason);
    host.remove_policy("b", "test").unwrap();
    let host = next(&shelf, 4);
    assert_eq!(host.policies().iter().map(|policy| policy.name.as_str()).collect::<Vec<_>>(), ["a", "c"]);
}

/// What was refused comes back when its file is put right, so its room is not given away.
#[test]
fn a_refused_policy_keeps_its_room() {
    let (shelf, before) = stamps();
    let second = before.plugin("stamp").unwrap()[1].digest.clone();
    drop(before);
    let whole = shelf.change(|kept| kept.components.remove(&second).unwrap());
    let host = next(&shelf, 3);
    let more = |name: &str| {
        let fields = json!({ "config": { "stamp": "x" } });
        host.put_policy(name, document("stamp@1", &["topic/z"], fields), "test").map(drop)
    };
    assert_eq!(more("z"), Err(PutError::NoCapacity { policies_max: 3 }));
    host.remove_policy("c", "test").unwrap();
    more("z").unwrap();
    shelf.change(|kept| kept.components.insert(second, whole));
    let host = next(&shelf, 3);
    assert_eq!((host.policies().len(), host.refused_policies().len()), (3, 0));
}

#[test]
fn the_same_component_again_mends_what_was_lost() {
    let (shelf, host) = stamps();
    let changes = shelf.changes();
    shelf.lose_components();
    assert_eq!(host.upload("stamp", &built("stamp-b"), "test").unwrap().revision, 2);
    assert_eq!(shelf.changes(), changes, "nothing changed");
    let after = next(&shelf, 4);
    assert_eq!(stamped(&after, "a"), stamped(&host, "a"));
    let refused: Vec<u32> =
        after.refused_revisions(Some("stamp")).iter().map(|refused| refused.revision).collect();
    assert_eq!(refused, [1]);
}

#[test]
fn a_plugin_that_comes_back_goes_on_counting() {
    let shelf = Arc::new(Shelf::default());
    let host = next(&shelf, 4);
    let upload = |host: &Host, component| host.upload("stamp", &built(component), "test").unwrap().revision;
    assert_eq!([upload(&host, "stamp-a"), upload(&host, "stamp-b")], [1, 2]);
    shelf.refuse(true);
    host.remove_plugin("stamp", "test").unwrap_err();
    shelf.refuse(false);
    host.remove_plugin("stamp", "test").unwrap();
    shelf.refuse(true);
    host.upload("stamp", &built("stamp-a"), "test").unwrap_err();
    shelf.refuse(false);
    assert_eq!(upload(&host, "stamp-a"), 3);
    host.remove_plugin("stamp", "test").unwrap();
    let host = next(&shelf, 4);
    assert_eq!(upload(&host, "stamp-b"), 4, "stamp@1 is what it was, and nothing else");
    let host = next(&shelf, 4);
    assert_eq!(upload(&host, "stamp-a"), 5);
}

#[test]
fn a_previous_version_that_is_gone_costs_the_rollback() {
    let (shelf, before) = stamps();
    before.remove_policy("b", "test").unwrap();
    before.remove_policy("c", "test").unwrap();
    let first = before.plugin("stamp").unwrap()[0].digest.clone();
    drop(before);
    shelf.change(|kept| kept.components.remove(&first));
    let host = next(&shelf, 4);
    assert_eq!(stamped(&host, "a"), ["second", "2"]);
    assert!(matches!(host.rollback("a", None, "test"), Err(RollbackError::NoPrevious { .. })));
}

#[test]
fn a_probation_waits_for_a_previous_version_that_is_gone() {
    let (shelf, before) = stamps();
    let first = before.plugin("stamp").unwrap()[0].digest.clone();
    let is_tried = |host: &Host| host.policy("a").unwrap().on_probation;
    assert!(is_tried(&before));
    drop(before);
    let component = shelf.change(|kept| kept.components.remove(&first)).unwrap();
    let host = next(&shelf, 4);
    assert!(!is_tried(&host), "there is nothing to compare it with");
    // Writes the manifest.
    host.remove_policy("b", "test").unwrap();
    drop(host);
    shelf.change(|kept| kept.components.insert(first, component));
    assert!(is_tried(&next(&shelf, 4)));
}

#[test]
fn a_damaged_manifest_brings_back_nothing() {
    let (shelf, before) = stamps();
    drop(before);
    let whole = shelf.change(|kept| kept.manifest.clone().unwrap());
    let damaged = |bytes: Vec<u8>| {
        shelf.change(|kept| kept.manifest = Some(bytes));
        let host = host(1);
        let error = host.open_archive(shelf.clone()).unwrap_err();
        assert!(host.plugins().is_empty() && host.policies().is_empty() && host.generation() == 0);
        error
    };
    for bytes in [Vec::new(), whole[..whole.len() / 2].to_vec(), b"{}".to_vec()] {
        let error = damaged(bytes);
        assert!(matches!(error, RestoreError::Manifest(BadManifest::Damaged { .. })), "{error}");
    }
    let error = damaged(br#"{"format":9}"#.to_vec());
    assert!(error.to_string().contains("newer version (format 9, this one knows 1)"), "{error}");
    assert_eq!(shelf.change(|kept| kept.components.len()), 2, "nothing is swept without a manifest");
    shelf.change(|kept| kept.manifest = Some(whole));
    let host = next(&shelf, 4);
    assert_eq!(host.open_archive(shelf), Err(RestoreError::NotFresh));
}

#[test]
fn components_go_with_their_last_revision() {
    let shelf = Arc::new(Shelf::default());
    let host = next(&shelf, 4);
    let count = || shelf.change(|kept| kept.components.len());
    host.upload("one", &built("stamp-a"), "test").unwrap();
    host.upload("two", &built("stamp-a"), "test").unwrap();
    host.upload("two", &built("stamp-b"), "test").unwrap();
    assert_eq!(count(), 2, "the same bytes are kept once");
    host.remove_plugin("one", "test").unwrap();
    assert_eq!(count(), 2);
    host.remove_plugin("two", "test").unwrap();
    assert_eq!(count(), 0);
    for n in 0..20_u32 {
        let data = format!("(data (i32.const 600) \"{n}\")");
        host.upload("many", &Guest { data, ..Guest::default() }.build(), "test").unwrap();
    }
    assert_eq!((count(), host.plugin("many").unwrap().len()), (16, 16));
    shelf.change(|kept| kept.components.insert("left".to_owned(), Vec::new()));
    let host = next(&shelf, 4);
    assert_eq!(count(), 16, "what a crash left is swept");
    assert_eq!(host.plugin("many").unwrap()[0].revision, 5);
    assert!(!host.worker(0).bound("topic/a").routing);
    assert_eq!(decide(&mut host.worker(0), "topic/a"), Verdict::default());
}
