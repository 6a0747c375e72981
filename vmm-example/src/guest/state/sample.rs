//! A made-up guest, for tests: every field has a different value.

use kvm_bindings::{
    kvm_cpuid_entry2, kvm_debugregs, kvm_irqchip, kvm_lapic_state, kvm_mp_state, kvm_msr_entry,
    kvm_pit_state2, kvm_regs, kvm_vcpu_events, kvm_xcrs,
};
use serde_bytes::ByteBuf;

use super::{ConsoleStateV1, GuestState, LifeStateV1, MachineStateV1};
use crate::devices::pm::PmStateV1;
use crate::devices::serial::SerialStateV1;
use crate::kvm::irqchip::{ClockStateV1, IrqchipStateV1, PitStateV1};
use crate::kvm::vcpu::{SregsV1, VcpuStateV1};
use crate::memory::layout::ram_ranges;
use crate::spec::MemoryKind;

/// The guest of the golden frame. Never change it: add another one.
pub(crate) fn guest_v1() -> GuestState {
    GuestState {
        machine: MachineStateV1 {
            name: "golden".into(),
            memory_kind: MemoryKind::GuestMemfd,
            ram: ram_ranges(5 << 30),
        },
        vcpus: vec![vcpu(0), vcpu(1)],
        irqchip: IrqchipStateV1 {
            pic_master: irqchip(0),
            pic_slave: irqchip(1),
            ioapic: irqchip(2),
        },
        pit: PitStateV1 {
            pit: kvm_pit_state2 {
                flags: 3,
                ..Default::default()
            },
        },
        clock: ClockStateV1 {
            guest_ns: 123_456_789,
            host_tsc: 1 << 40,
            host_tsc_khz: 2_596_092,
        },
        serial: serial(),
        pm: PmStateV1 {
            enable: 0x20,
            status: 0,
        },
        console: ConsoleStateV1 {
            unsent: b"not read yet".to_vec(),
        },
        virtio: Vec::new(),
        pci: None,
        boot: None,
        life: LifeStateV1::default(),
    }
}

fn vcpu(id: u8) -> VcpuStateV1 {
    let msr = |index, data| kvm_msr_entry {
        index,
        data,
        ..Default::default()
    };
    let mut lapic = kvm_lapic_state::default();
    lapic.regs[0x20] = id.cast_signed();
    VcpuStateV1 {
        id,
        mp_state: kvm_mp_state {
            mp_state: id.into(),
        },
        regs: kvm_regs {
            rip: 0xffff_ffff_8100_0000,
            rax: id.into(),
            ..Default::default()
        },
        sregs: SregsV1::Sregs2(ByteBuf::from(
            (0..64).cycle().take(320).collect::<Vec<u8>>(),
        )),
        // Beyond 4 KiB, where the decoder needs an owned buffer.
        xsave: ByteBuf::from(vec![0x5a + id; 5000]),
        xcrs: kvm_xcrs {
            nr_xcrs: 1,
            ..Default::default()
        },
        debug_regs: kvm_debugregs {
            dr7: 0x400,
            ..Default::default()
        },
        lapic,
        nested: Some(ByteBuf::from(vec![1; 128])),
        cpuid: vec![kvm_cpuid_entry2 {
            function: 0xb,
            edx: id.into(),
            ..Default::default()
        }],
        tsc_khz: Some(2_596_092),
        tsc_offset: Some(1 << 41),
        msrs: vec![msr(0x10, 7), msr(0x4b56_4d01, 0x1000), msr(0x6e0, 99)],
        events: kvm_vcpu_events {
            flags: 5,
            ..Default::default()
        },
    }
}

fn irqchip(chip_id: u32) -> kvm_irqchip {
    kvm_irqchip {
        chip_id,
        ..Default::default()
    }
}

fn serial() -> SerialStateV1 {
    SerialStateV1 {
        baud_divisor_low: 1,
        baud_divisor_high: 2,
        interrupt_enable: 3,
        interrupt_identification: 4,
        line_control: 5,
        line_status: 6,
        modem_control: 7,
        modem_status: 8,
        scratch: 9,
        in_buffer: vec![10, 11],
        pending_input: vec![12],
    }
}
