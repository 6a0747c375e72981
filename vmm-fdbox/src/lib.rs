//! Keep a VM alive across a kexec of its host.
