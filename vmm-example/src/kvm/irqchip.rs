//! Saving and restoring interrupt controllers, timer and clock of a VM.

use kvm_bindings::{
    KVM_CLOCK_HOST_TSC, KVM_IRQCHIP_IOAPIC, KVM_IRQCHIP_PIC_MASTER, KVM_IRQCHIP_PIC_SLAVE,
    kvm_clock_data, kvm_irqchip, kvm_pit_state2,
};
use serde::{Deserialize, Serialize};

use super::{KvmError, Vm, exact, named};
use crate::kvm::tsc;

/// The maximum error of the guest's clock; its kernel's watchdog allows some hundred µs.
const CLOCK_TOLERANCE_NS: u64 = 50_000;
/// Number of tries, for a busy host.
const CLOCK_TRIES: u32 = 8;

/// The interrupt controllers, version 1.
#[derive(Clone, Serialize, Deserialize)]
pub(crate) struct IrqchipStateV1 {
    #[serde(deserialize_with = "exact::one")]
    pub(crate) pic_master: kvm_irqchip,
    #[serde(deserialize_with = "exact::one")]
    pub(crate) pic_slave: kvm_irqchip,
    #[serde(deserialize_with = "exact::one")]
    pub(crate) ioapic: kvm_irqchip,
}

impl std::fmt::Debug for IrqchipStateV1 {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("IrqchipStateV1").finish_non_exhaustive()
    }
}

/// The timer, version 1.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct PitStateV1 {
    #[serde(deserialize_with = "exact::one")]
    pub(crate) pit: kvm_pit_state2,
}

/// The paravirtual clock and the host's TSC at the same moment, version 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ClockStateV1 {
    pub(crate) guest_ns: u64,
    pub(crate) host_tsc: u64,
    pub(crate) host_tsc_khz: u32,
}

impl ClockStateV1 {
    /// The guest's clock when the host's TSC is `host_tsc`. Time never goes backwards.
    pub(crate) fn guest_ns_at(&self, host_tsc: u64) -> u64 {
        let ticks = host_tsc.saturating_sub(self.host_tsc);
        let elapsed = u128::from(ticks) * 1_000_000 / u128::from(self.host_tsc_khz.max(1));
        self.guest_ns
            .saturating_add(u64::try_from(elapsed).unwrap_or(u64::MAX))
    }
}

impl Vm {
    /// Reads the interrupt controllers. No vCPU may be running.
    pub(crate) fn save_irqchip(&self) -> Result<IrqchipStateV1, KvmError> {
        Ok(IrqchipStateV1 {
            pic_master: self.get_irqchip(KVM_IRQCHIP_PIC_MASTER)?,
            pic_slave: self.get_irqchip(KVM_IRQCHIP_PIC_SLAVE)?,
            ioapic: self.get_irqchip(KVM_IRQCHIP_IOAPIC)?,
        })
    }

    pub(crate) fn restore_irqchip(&self, state: &IrqchipStateV1) -> Result<(), KvmError> {
        for chip in [&state.pic_master, &state.pic_slave, &state.ioapic] {
            named("KVM_SET_IRQCHIP", self.fd().set_irqchip(chip))?;
        }
        Ok(())
    }

    fn get_irqchip(&self, chip_id: u32) -> Result<kvm_irqchip, KvmError> {
        let mut chip = kvm_irqchip {
            chip_id,
            ..Default::default()
        };
        named("KVM_GET_IRQCHIP", self.fd().get_irqchip(&mut chip))?;
        Ok(chip)
    }

    pub(crate) fn save_pit(&self) -> Result<PitStateV1, KvmError> {
        Ok(PitStateV1 {
            pit: named("KVM_GET_PIT2", self.fd().get_pit2())?,
        })
    }

    pub(crate) fn restore_pit(&self, state: &PitStateV1) -> Result<(), KvmError> {
        named("KVM_SET_PIT2", self.fd().set_pit2(&state.pit))
    }

    /// Reads the guest's clock. `host_tsc_khz` is the frequency of the host's TSC.
    pub(crate) fn save_clock(&self, host_tsc_khz: u32) -> Result<ClockStateV1, KvmError> {
        let (guest_ns, host_tsc) = self.get_clock()?;
        Ok(ClockStateV1 {
            guest_ns,
            host_tsc,
            host_tsc_khz,
        })
    }

    /// Sets the guest's clock to the value it would have had if it had never stopped.
    ///
    /// The elapsed time comes from the host's TSC, which continues across a kexec; the wall clock
    /// of a new host only has a resolution of a second.
    pub(crate) fn restore_clock(&self, state: &ClockStateV1) -> Result<(), KvmError> {
        let mut lag = 0;
        for _ in 0..CLOCK_TRIES {
            self.set_clock(state.guest_ns_at(tsc::read()).saturating_add(lag))?;
            let (guest_ns, host_tsc) = self.get_clock()?;
            let due = state.guest_ns_at(host_tsc);
            if guest_ns.abs_diff(due) <= CLOCK_TOLERANCE_NS {
                break;
            }
            // KVM read its TSC a little later than we did; the next time it will be about the same,
            // unless one of the two was interrupted.
            lag = due.saturating_add(lag).saturating_sub(guest_ns);
        }
        Ok(())
    }

    /// The guest's clock and the host's TSC at the same moment.
    fn get_clock(&self) -> Result<(u64, u64), KvmError> {
        let clock = named("KVM_GET_CLOCK", self.fd().get_clock())?;
        let tsc = match clock.flags & KVM_CLOCK_HOST_TSC {
            0 => tsc::read(),
            _ => clock.host_tsc,
        };
        Ok((clock.clock, tsc))
    }

    fn set_clock(&self, clock: u64) -> Result<(), KvmError> {
        let clock = kvm_clock_data {
            clock,
            ..Default::default()
        };
        named("KVM_SET_CLOCK", self.fd().set_clock(&clock))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SAVED: ClockStateV1 = ClockStateV1 {
        guest_ns: 5_000_000_000,
        host_tsc: 1_000_000,
        host_tsc_khz: 2_000_000,
    };

    #[test]
    fn the_clock_runs_on_through_the_gap() {
        assert_eq!(SAVED.guest_ns_at(1_000_000), 5_000_000_000);
        // 2 GHz: 2e9 ticks are one second.
        assert_eq!(SAVED.guest_ns_at(2_001_000_000), 6_000_000_000);
    }

    #[test]
    fn the_clock_never_goes_back() {
        assert_eq!(SAVED.guest_ns_at(0), SAVED.guest_ns);
        let no_frequency = ClockStateV1 {
            host_tsc_khz: 0,
            ..SAVED
        };
        assert!(no_frequency.guest_ns_at(u64::MAX) >= SAVED.guest_ns);
    }
}
