//! Metrics in Prometheus's text format.

use std::fmt::Write;

/// Something that has metrics: a device, the vCPUs.
pub(crate) trait Counted {
    /// Adds its metrics.
    fn count(&self, metrics: &mut Metrics);
}

/// A label's name and value.
pub(crate) type Label<'a> = (&'a str, &'a str);

/// Collected metrics.
#[derive(Debug)]
pub(crate) struct Metrics {
    guest: String,
    text: String,
}

impl Metrics {
    /// Metrics of this guest: each gets its name as a label.
    pub(crate) fn of(guest: &str) -> Self {
        Self {
            guest: escape(guest),
            text: String::new(),
        }
    }

    /// A value that only increases.
    pub(crate) fn counter(&mut self, name: &str, help: &str, samples: &[(&[Label<'_>], u64)]) {
        self.family(name, help, "counter");
        for (labels, value) in samples {
            self.sample(name, labels, &value.to_string());
        }
    }

    /// A value that can go up and down.
    pub(crate) fn gauge(&mut self, name: &str, help: &str, samples: &[(&[Label<'_>], f64)]) {
        self.family(name, help, "gauge");
        for (labels, value) in samples {
            self.sample(name, labels, &value.to_string());
        }
    }

    pub(crate) fn finish(self) -> String {
        self.text
    }

    fn family(&mut self, name: &str, help: &str, kind: &str) {
        // Writing to a string does not fail.
        let _ = writeln!(
            self.text,
            "# HELP vmm_example_{name} {help}\n# TYPE vmm_example_{name} {kind}"
        );
    }

    fn sample(&mut self, name: &str, labels: &[Label<'_>], value: &str) {
        let mut all = format!("guest=\"{}\"", self.guest);
        for (label, value) in labels {
            let _ = write!(all, ",{label}=\"{}\"", escape(value));
        }
        let _ = writeln!(self.text, "vmm_example_{name}{{{all}}} {value}");
    }
}

fn escape(value: &str) -> String {
    value
        .replace('\\', "\\\\")
        .replace('"', "\\\"")
        .replace('\n', "\\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_text_is_what_prometheus_reads() {
        let mut metrics = Metrics::of("vm \"0\"");
        metrics.counter("exits_total", "Exits.", &[(&[("vcpu", "0")], 7)]);
        metrics.gauge("up", "Is up.", &[(&[], 0.5)]);
        let text = "\
# HELP vmm_example_exits_total Exits.
# TYPE vmm_example_exits_total counter
vmm_example_exits_total{guest=\"vm \\\"0\\\"\",vcpu=\"0\"} 7
# HELP vmm_example_up Is up.
# TYPE vmm_example_up gauge
vmm_example_up{guest=\"vm \\\"0\\\"\"} 0.5
";
        assert_eq!(metrics.finish(), text);
    }
}
