//! Checks that a kernel's configuration has what was requested: Kconfig silently drops an option
//! whose dependencies are not met.

/// The options in `fragment` that `config` does not have.
pub(crate) fn missing(fragment: &str, config: &str) -> Vec<String> {
    let set: std::collections::HashMap<&str, &str> = config.lines().filter_map(option).collect();
    let wanted: std::collections::BTreeMap<&str, &str> =
        fragment.lines().filter_map(option).collect();
    wanted
        .into_iter()
        .filter(|(name, value)| match *value {
            "n" => set.contains_key(name),
            value => set.get(name) != Some(&value),
        })
        .map(|(name, value)| format!("{name}={value}"))
        .collect()
}

fn option(line: &str) -> Option<(&str, &str)> {
    line.trim()
        .split_once('=')
        .filter(|(name, _)| name.starts_with("CONFIG_"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_did_not_take_is_named() {
        let config = "CONFIG_A=y\n# CONFIG_B is not set\nCONFIG_C=m\nCONFIG_D=\"x\"\nCONFIG_E=64\n";
        let fragment =
            "# comment\nCONFIG_A=y\nCONFIG_B=n\nCONFIG_F=n\nCONFIG_D=\"x\"\nCONFIG_E=64\n";
        assert!(missing(fragment, config).is_empty());
        let fragment = "CONFIG_A=n\nCONFIG_B=y\nCONFIG_C=y\nCONFIG_E=32\n";
        assert_eq!(
            missing(fragment, config),
            ["CONFIG_A=n", "CONFIG_B=y", "CONFIG_C=y", "CONFIG_E=32"]
        );
    }

    #[test]
    fn a_later_line_of_a_fragment_wins() {
        assert!(missing("CONFIG_A=n\nCONFIG_A=y\n", "CONFIG_A=y\n").is_empty());
    }
}
