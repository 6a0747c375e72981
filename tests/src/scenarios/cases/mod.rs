//! Every scenario, by subject.

mod boxes;
mod busy;
mod cpu_state;
mod debian;
mod devices;
mod disk_depth;
mod dist;
mod doctor;
mod encrypted;
mod errnos;
mod forged;
mod guest;
mod guest_memory;
mod guest_stays;
mod guest_takers;
mod guests;
mod guests_as_they_are;
mod homes;
mod hugetlb;
mod hundred;
mod ioctls;
mod jump_refused;
mod late;
mod leaving;
mod leaving_load;
mod lifeboat_borrows;
mod lifeboat_crashes;
mod lifeboat_dead_host;
mod lifeboat_device;
mod lifeboat_ends;
mod lifeboat_fleet;
mod lifeboat_here;
mod lifeboat_holes;
mod lifeboat_kexec;
mod lifeboat_leases;
mod lifeboat_lost;
mod lifeboat_meeting;
mod lifeboat_offers;
mod lifeboat_refused;
mod lifeboat_restarted;
mod lifeboat_update;
mod load;
mod lsm;
mod luo;
mod memfd;
mod memfd_large;
mod memfd_scattered;
mod memory_policy;
mod modular;
mod next_kernel;
mod other_cpu;
mod passthrough;
mod passthrough_amd_vi;
mod passthrough_blockers;
mod passthrough_failing;
mod passthrough_guest;
mod passthrough_guests;
mod passthrough_here;
mod passthrough_nvme;
mod passthrough_scalable;
mod passthrough_stopped;
mod poison;
mod ports;
mod power;
mod privileges;
mod reports;
mod rights;
mod room;
mod sample;
mod signals;
mod soak;
mod stuck;
mod supervision;
mod taken_over;
mod thirty_two;
mod trouble;
mod two_builds;
mod upgrade;
mod upgrade_failing;
mod watching;

use anyhow::Result;
use fdbox_lab::event::{Event, EventPort};
use fdbox_lab::scenario::{HostKind, Listed};

/// The context of a scenario.
pub(crate) struct Cx<'a> {
    pub(crate) port: &'a EventPort,
}

impl Cx<'_> {
    /// Sends a result to the lab.
    pub(crate) fn value(&self, name: &str, value: impl serde::Serialize) -> Result<()> {
        let value = serde_json::to_value(value)?;
        Ok(self.port.send(&Event::Value {
            name: name.to_owned(),
            value,
        })?)
    }
}

/// One scenario: a function for each kernel it runs in.
pub(crate) struct Scenario {
    pub(crate) name: &'static str,
    pub(crate) about: &'static str,
    pub(crate) host: HostKind,
    pub(crate) stages: &'static [Stage],
}

pub(crate) type Stage = fn(&Cx<'_>) -> Result<()>;

impl Scenario {
    pub(crate) fn listed(&self) -> Listed {
        Listed {
            name: self.name.to_owned(),
            about: self.about.to_owned(),
            host: self.host,
            kernels: self.stages.len(),
        }
    }
}

pub(crate) fn all() -> Vec<&'static Scenario> {
    [
        errnos::ALL,
        room::ALL,
        encrypted::ALL,
        poison::ALL,
        boxes::ALL,
        rights::ALL,
        lsm::ALL,
        busy::ALL,
        memfd::ALL,
        memfd_large::ALL,
        memfd_scattered::ALL,
        hugetlb::ALL,
        memory_policy::ALL,
        leaving::ALL,
        leaving_load::ALL,
        jump_refused::ALL,
        guest_memory::ALL,
        guest_takers::ALL,
        signals::ALL,
        load::ALL,
        luo::ALL,
        homes::ALL,
        guest::ALL,
        guest_stays::ALL,
        cpu_state::ALL,
        debian::ALL,
        other_cpu::ALL,
        next_kernel::ALL,
        devices::ALL,
        disk_depth::ALL,
        stuck::ALL,
        ports::ALL,
        power::ALL,
        privileges::ALL,
        taken_over::ALL,
        dist::ALL,
        doctor::ALL,
        guests::ALL,
        guests_as_they_are::ALL,
        upgrade::ALL,
        upgrade_failing::ALL,
        late::ALL,
        two_builds::ALL,
        hundred::ALL,
        ioctls::ALL,
        watching::ALL,
        forged::ALL,
        passthrough::ALL,
        passthrough_here::ALL,
        passthrough_guest::ALL,
        passthrough_scalable::ALL,
        passthrough_amd_vi::ALL,
        passthrough_nvme::ALL,
        passthrough_guests::ALL,
        passthrough_blockers::ALL,
        passthrough_stopped::ALL,
        passthrough_failing::ALL,
        sample::ALL,
        soak::ALL,
        supervision::ALL,
        thirty_two::ALL,
        trouble::ALL,
        modular::ALL,
        lifeboat_borrows::ALL,
        lifeboat_crashes::ALL,
        lifeboat_dead_host::ALL,
        lifeboat_device::ALL,
        lifeboat_fleet::ALL,
        lifeboat_here::ALL,
        lifeboat_holes::ALL,
        lifeboat_kexec::ALL,
        lifeboat_ends::ALL,
        lifeboat_leases::ALL,
        lifeboat_lost::ALL,
        lifeboat_offers::ALL,
        lifeboat_refused::ALL,
        lifeboat_restarted::ALL,
        lifeboat_update::ALL,
    ]
    .into_iter()
    .flatten()
    .copied()
    .collect()
}

/// Runs the helper with this name: the part of a scenario that needs a process of its own.
pub(crate) fn help(helper: &str, argument: &str) -> Result<()> {
    match helper {
        "leave" => leaving::leave(argument),
        "leave-and-get" => leaving::leave_and_get(argument),
        "load-and-leave" => leaving_load::load_and_leave(),
        "use-in-vain" => leaving::use_in_vain(),
        "take-and-panic" => lifeboat_leases::take_and_panic(argument),
        "borrow" => lifeboat_borrows::borrow(argument),
        "fill-holes" => lifeboat_holes::fill_holes(argument),
        "host-is-dead" => lifeboat_dead_host::host_is_dead(argument),
        "host-comes-back" => lifeboat_restarted::host_comes_back(argument),
        "host-is-too-far" => lifeboat_restarted::host_is_too_far(argument),
        "tell-guest" => lifeboat_ends::tell_guest(argument),
        "hold-up" => lifeboat_meeting::hold_up(argument),
        "meet-host" => lifeboat_meeting::meet_host(argument),
        "start-boat" => lifeboat_here::start_boat(argument),
        "random-ioctls" => ioctls::work(argument),
        "poison" => poison::poison(argument),
        "seal-in-a-cgroup" => room::seal_in_a_cgroup(argument),
        "seal" => room::seal(argument),
        "seal-under-a-timer" => signals::seal_under_a_timer(argument),
        "put-memfd" => boxes::put_memfd(argument),
        "owner-puts" => lsm::owner_puts(argument),
        "owner-restores" => lsm::owner_restores(argument),
        "owner-takes" => lsm::owner_takes(argument),
        "stranger-lists" => lsm::node::stranger_lists(argument),
        "stranger-takes" => lsm::stranger_takes(argument),
        "use-passed-box" => rights::use_passed_box(argument),
        "put-guest-and-seal" => rights::put_guest_and_seal(argument),
        "unseal-and-take-guest" => rights::unseal_and_take_guest(argument),
        "be-root-of-a-namespace" => rights::be_root_of_a_namespace(argument),
        "seal-busy" => busy::seal_busy(argument),
        "unseal-busy" => busy::unseal_busy(argument),
        "take-many" => guest_takers::take_many(argument),
        "take-guest" => guest_takers::take_guest(argument),
        "take-vm-and-die" => guest_takers::take_vm_and_die(argument),
        "take-and-die" => guest_takers::take_and_die(argument),
        _ => anyhow::bail!("There is no helper {helper}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique_and_every_scenario_has_a_kernel() {
        let mut names: Vec<_> = all().iter().map(|scenario| scenario.name).collect();
        let count = names.len();
        names.sort();
        names.dedup();
        assert_eq!(names.len(), count);
        for scenario in all() {
            assert!(!scenario.stages.is_empty(), "{}", scenario.name);
        }
    }
}
