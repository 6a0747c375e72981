//! Looks at the pages of `--report` in a browser, in a throwaway copy of the toolchain.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};

use super::lanes::Job;
use super::{Suite, page};
use crate::lab::Lab;
use crate::package;
use crate::progress::Progress;
use crate::{bench, command, soak};

const NAME: &str = "report/browser";
const BROWSER: &[&str] = &["chromium-headless-shell", "fonts-dejavu-core"];

/// Put into a page: reports what does not fit there.
const SCRIPT: &str = include_str!("../page/layout.js");
/// What it puts before each finding.
const FOUND: &str = "LAYOUT ";

/// Loads each page in windows of three widths and in both themes. Arguments: the pages.
const LOOK: &str = r#"
exec 2>&1
dpkg --install /lab/debs/*.deb >/lab/out/install.log
browser() {
    chromium-headless-shell --no-sandbox --disable-gpu --blink-settings=preferredColorScheme=$theme \
        --window-size=$width,1600 "$@"
}
for page; do
    for width in 1280 800 390; do
        for theme in 0 1; do
            browser --dump-dom "file:///lab/out/$page.html" >"/lab/out/$page-$width-$theme.found"
        done
    done
    width=1280 theme=1
    browser --screenshot="/lab/out/$page.png" "file:///lab/out/$page-plain.html"
done
"#;
const WIDTHS: [u32; 3] = [1280, 800, 390];
const THEMES: [(u32, &str); 2] = [(0, "dark"), (1, "light")];

/// A page on which something of each kind does not fit: the script must find it.
const BROKEN: &str = "<!doctype html><html><body style=\"color:#999;background:#fff;margin:0\">\
    <div class=\"scroll\" style=\"overflow-x:auto\"><table><tr><td style=\"min-width:3000px\">wide</td></tr></table></div>\
    <svg viewBox=\"0 0 100 100\" style=\"width:100%\"><text x=\"90\" y=\"50\">long label</text>\
    <text x=\"10\" y=\"20\">one</text><text x=\"12\" y=\"20\">two</text></svg>\
    <div style=\"width:4000px\">outside</div></body></html>";
const FAULTS: [&str; 5] = [
    "the page is 4000 px wide in a window of 1280",
    "a table of 300",
    "cut off: text \"long label\"",
    "overlap: text \"one\" and text \"two\"",
    "a contrast of 2.8: body",
];

pub(super) fn jobs<'a>(suite: &Suite<'a>) -> Vec<Job<'a>> {
    if !suite.wants(NAME) {
        return Vec::new();
    }
    let lab = suite.lab;
    vec![Job::of_one(NAME, 1, || test(lab))]
}

fn test(lab: &Lab) -> Result<()> {
    let pages = [
        ("bench", bench::sample_page()),
        ("test", page::sample()),
        ("soak", soak::sample_page()),
        ("broken", BROKEN.to_owned()),
    ];
    let out = lab.cache.dir("pages")?.join(std::process::id().to_string());
    fs::create_dir_all(&out)?;
    for (name, page) in &pages {
        let script = format!("<script>{SCRIPT}</script></body>");
        fs::write(out.join(format!("{name}-plain.html")), page)?;
        fs::write(
            out.join(format!("{name}.html")),
            page.replace("</body>", &script),
        )?;
    }
    look(lab, &out, &pages.map(|(name, _)| name))?;
    for name in ["bench", "test", "soak"] {
        fits(&out, name)?;
    }
    broken(&out)?;
    Ok(fs::remove_dir_all(out)?)
}

/// Has the browser load the pages.
fn look(lab: &Lab, out: &Path, pages: &[&str]) -> Result<()> {
    let debs = package::with_dependencies(&lab.cache, &lab.toolchain, "browser", BROWSER)?;
    let log = lab.fresh_log("report-browser")?;
    let progress = Progress::start("Pages in a browser", None);
    let mounts = [(debs.as_path(), "/lab/debs"), (out, "/lab/out")];
    let mut sh = lab.toolchain.throwaway(&mounts, "sh");
    sh.args(["-ec", LOOK, "sh"]).args(pages);
    command::logged(&mut sh, &log, |_| {})
        .with_context(|| format!("Load pages in a browser: see {}", log.display()))?;
    progress.done();
    Ok(())
}

/// Checks that all of a page fits and is legible in every window.
fn fits(out: &Path, name: &str) -> Result<()> {
    for width in WIDTHS {
        for (number, theme) in THEMES {
            let mut found = found(out, name, width, number)?;
            let seen = found.pop().context("The script did not end")?;
            ensure!(
                seen == format!("theme: {theme}"),
                "{name}: {seen} in place of {theme}"
            );
            if !found.is_empty() {
                bail!(
                    "The page {name} in a {theme} window of {width} px:\n{}\nIt is {}",
                    found.join("\n"),
                    out.join(format!("{name}-plain.html")).display()
                );
            }
        }
    }
    let picture = fs::read(out.join(format!("{name}.png"))).context("The picture of the page")?;
    ensure!(picture.starts_with(b"\x89PNG"), "The picture is no PNG");
    Ok(())
}

/// Checks that the script finds what does not fit.
fn broken(out: &Path) -> Result<()> {
    let found = found(out, "broken", 1280, 1)?;
    for fault in FAULTS {
        ensure!(
            found.iter().any(|line| line.starts_with(fault)),
            "Not found: {fault}. Found:\n{}",
            found.join("\n")
        );
    }
    Ok(())
}

fn found(out: &Path, name: &str, width: u32, theme: u32) -> Result<Vec<String>> {
    let path = out.join(format!("{name}-{width}-{theme}.found"));
    let text = fs::read_to_string(&path).with_context(|| format!("Read {}", path.display()))?;
    let lines = text.lines().filter_map(|line| {
        // Markup within a finding is escaped: what follows is that of the page.
        let (_, line) = line.split_once(FOUND)?;
        line.split('<').next().map(str::to_owned)
    });
    Ok(lines.collect())
}
