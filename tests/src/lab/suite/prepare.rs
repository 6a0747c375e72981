//! Builds what hosts need before the first of them runs: an emulated host is slow next to a build.

use anyhow::{Result, anyhow};

use super::lanes::Needs;
use crate::kernel::Flavour;
use crate::lab::Lab;
use crate::{programs, scenario_host, selftests};

/// Builds the kernels, their modules and the selftests, if there is any host to boot.
pub(super) fn kernels(lab: &Lab, needs: &[Needs]) -> Result<()> {
    if needs.is_empty() {
        return Ok(());
    }
    let kernels = lab.kernels()?;
    let flavours = flavours(needs);
    // All others start from these two.
    let (first, others) = flavours.split_at(2);
    for flavour in first {
        lab.build(*flavour)?;
    }
    // Kernels that only have to be linked are built in parallel with those that are compiled.
    std::thread::scope(|scope| {
        let beside = scope.spawn(|| {
            if needs.iter().any(|it| it.selftests) {
                selftests::get(&lab.cache, &lab.toolchain, &kernels.source)?;
            }
            lab.build(Flavour::B)
        });
        let others = others.iter().try_for_each(|flavour| lab.build(*flavour));
        let beside = beside.join();
        beside.map_err(|_| anyhow!("Building a kernel panicked"))??;
        others
    })
}

/// Each flavour once, starting with the two that others are based on.
fn flavours(needs: &[Needs]) -> Vec<Flavour> {
    let mut flavours = vec![Flavour::Stock, Flavour::A];
    for flavour in needs.iter().flat_map(|it| &it.kernels) {
        if !flavours.contains(flavour) {
            flavours.push(*flavour);
        }
    }
    if !flavours.contains(&Flavour::B) {
        flavours.push(Flavour::B);
    }
    flavours
}

/// Builds the programs.
pub(super) fn programs(lab: &Lab, needs: &[Needs]) -> Result<()> {
    for needs in needs {
        match needs.programs {
            Some(kind) => scenario_host::programs(lab, kind)?,
            None => lab.programs(&[programs::INIT])?,
        };
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn needs(kernels: &[Flavour]) -> Needs {
        Needs {
            kernels: kernels.to_vec(),
            ..Needs::default()
        }
    }

    #[test]
    fn kernels_are_those_that_hosts_boot() {
        use Flavour::{A, B, Debug, Stock};
        let usual = [Stock, A, B];
        assert_eq!(flavours(&[needs(&[])]), usual);
        assert_eq!(flavours(&[needs(&[B, A])]), usual);
        let more = [needs(&[Debug]), needs(&[A, Debug]), needs(&[B])];
        let mut found = flavours(&more);
        assert_eq!(found[..2], [Stock, A], "what others start from");
        found.sort_by_key(|flavour| flavour.name());
        assert_eq!(found, [A, B, Debug, Stock]);
    }
}
