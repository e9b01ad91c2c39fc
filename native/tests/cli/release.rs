//! What `native/release` publishes beside the program, and what it checks before.

use crate::foreword;
use std::path::Path;
use std::process::{Command, Output};

#[test]
fn packages_have_man_pages_and_completions() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("docs");
    assert!(
        foreword(folder.path(), &["package-docs", path.to_str().expect("a path")]).status().expect("a run").success()
    );
    let page = std::fs::read_to_string(path.join("man/foreword-serve.1")).expect("a man page");
    assert!(page.contains(".TH foreword\\-serve 1") || page.contains(".TH foreword-serve 1"), "{page:.200}");
    assert!(page.contains("cache\\-tokens"), "it has the flags");
    let completions = path.join("completions/foreword.bash");
    let checked = Command::new("bash").arg("-n").arg(&completions).status().expect("bash");
    assert!(checked.success());
    for name in ["_foreword", "foreword.fish", "_foreword.ps1", "foreword.elv"] {
        assert!(path.join("completions").join(name).exists(), "{name}");
    }
    let nowhere = foreword(folder.path(), &["package-docs", "/dev/null/x"]).output().expect("a run");
    assert!(!nowhere.status.success() && String::from_utf8_lossy(&nowhere.stderr).contains("cannot write into"));
}

/// A repository with a version in each place that has one.
struct Repository(tempfile::TempDir);

impl Repository {
    fn new(cargo: &str, package: &str, changelog: &str) -> Repository {
        let repository = Repository(tempfile::tempdir().expect("a folder"));
        repository.write("Cargo.toml", &format!("[workspace.package]\nversion = \"{cargo}\"\nedition = \"2024\"\n\n"));
        repository.write("pkg/package.json", &format!("{{\n  \"version\": \"{package}\",\n  \"x\": 1\n}}\n"));
        repository.write("CHANGELOG.md", changelog);
        repository.write("native/release", include_str!("../../release"));
        for args in [&["init", "-q"][..], &["add", "."], &["commit", "-q", "-m", "all"]] {
            assert!(repository.git(args).status.success(), "{args:?}");
        }
        repository
    }

    fn write(&self, name: &str, text: &str) {
        let path = self.0.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap_or(Path::new("/"))).expect("a folder");
        std::fs::write(path, text).expect("a file");
    }

    fn git(&self, args: &[&str]) -> Output {
        let me = ["-c", "user.name=a", "-c", "user.email=a@example.org", "-c", "commit.gpgsign=false"];
        Command::new("git").args(me).args(args).current_dir(&self.0).output().expect("git")
    }

    /// Why there is nothing to publish; nothing where there is.
    fn check(&self) -> String {
        let mut command = Command::new("bash");
        let output = command.args(["native/release", "--check"]).current_dir(&self.0).output().expect("bash");
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.success(), said.is_empty(), "{said}");
        said
    }
}

#[test]
fn version_changelog_and_tag_have_to_agree() {
    let right = Repository::new("1.2.3", "1.2.3", "# Changelog\n\n## 1.2.3 2026-11-27\n\n- All.\n");
    assert!(right.check().contains("no tag v1.2.3"), "before it is tagged");
    right.git(&["tag", "v1.2.30"]);
    assert!(right.check().contains("no tag v1.2.3"), "another tag");
    right.git(&["tag", "v1.2.3"]);
    assert_eq!(right.check(), "");
    right.write("more", "");
    assert!(right.check().contains("not committed"));
    let package = Repository::new("1.2.3", "1.2.4", "## 1.2.3 2026-11-27\n");
    assert!(package.check().contains("pkg/package.json 1.2.4"));
    let changelog = Repository::new("1.2.3", "1.2.3", "## Unreleased\n");
    assert!(changelog.check().contains("no section '## 1.2.3 DATE'"));
    let more = Repository::new("1.2.3", "1.2.3", "## Unreleased\n\n- x\n\n## 1.2.3 2026-11-27\n");
    assert!(more.check().contains("in no version"));
}
