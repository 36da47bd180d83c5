//! What objects are found by: those of a fleet that concern one Machine, without a look at all of them.

use std::net::IpAddr;

use athanor_crds::{
    Address, BootProfile, BootReport, Deployment, Machine, MachineInventory, Subnet,
    conditions::{self, reasons},
};
use athanor_wire::{
    MacAddr,
    inventory::{identifies_by_serial, identifies_by_uuid},
};
use k8s_openapi::api::{coordination::v1::Lease, core::v1::Secret};
use kube::ResourceExt as _;

use crate::port::Object;

/// Something that is true of an object.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Term {
    /// It names this MAC address: on an interface, as the one that an address is for, or as the machine that it wants.
    Mac(MacAddr),
    /// It fixes this IP address for somebody.
    Fixes(IpAddr),
    /// It fixes some IP address for somebody.
    FixesSome,
    /// It belongs to the object of this namespace and name: an address to its Machine, a Machine to its Deployment.
    BelongsTo(String, String),
    /// It is about the object of this namespace and name: a Deployment that has, chose or waits for a Machine.
    Concerns(String, String),
    /// It waits for any object of this namespace.
    WaitsIn(String),
    /// It does not go on, for this reason.
    Stuck(&'static str),
    /// It has BMC credentials in the Secret of this namespace and name.
    Credentials(String, String),
    /// It has this SMBIOS UUID, in small letters.
    Uuid(String),
    /// It has this serial number.
    Serial(String),
}

/// An object that is found by what is true of it.
pub trait Indexed: Object {
    /// What is true of it.
    fn terms(&self) -> Vec<Term>;

    /// Whether one of some terms is true of it.
    fn is_about(&self, wanted: &[Term]) -> bool {
        self.terms().iter().any(|term| wanted.contains(term))
    }
}

/// What is looked for among others that concern a Machine: its MAC addresses.
pub(crate) fn macs(machine: &Machine) -> impl Iterator<Item = Term> {
    machine.spec.interfaces.iter().map(|interface| Term::Mac(interface.mac))
}

impl Indexed for Machine {
    fn terms(&self) -> Vec<Term> {
        let namespace = self.namespace().unwrap_or_default();
        let mut terms: Vec<Term> = macs(self).collect();
        let fixed = self.spec.interfaces.iter().flat_map(|interface| &interface.addresses);
        terms.extend(fixed.map(|claim| Term::Fixes(claim.ip)));
        if terms.iter().any(|term| matches!(term, Term::Fixes(_))) {
            terms.push(Term::FixesSome);
        }
        terms.extend(self.spec.claim_ref.iter().map(|claim| Term::BelongsTo(claim.namespace.clone(), claim.name.clone())));
        let credentials = self.spec.bmc.iter().filter_map(|bmc| bmc.credentials.as_ref());
        terms.extend(credentials.map(|credentials| Term::Credentials(namespace.clone(), credentials.name.clone())));
        let list = self.status.as_ref().map(|status| status.conditions.as_slice()).unwrap_or_default();
        let stuck = [reasons::DUPLICATE_MAC, reasons::ADDRESS_CONFLICT].into_iter();
        terms.extend(stuck.filter(|reason| conditions::is_ready_for(list, reason)).map(Term::Stuck));
        terms
    }
}

impl Indexed for Deployment {
    fn terms(&self) -> Vec<Term> {
        let namespace = self.namespace().unwrap_or_default();
        let mut terms: Vec<Term> = self.spec.addresses.iter().map(|claim| Term::Fixes(claim.ip)).collect();
        if !terms.is_empty() {
            terms.push(Term::FixesSome);
        }
        let wants = &self.spec.machine;
        match (self.status.as_ref().and_then(|status| status.machine.as_ref()), &wants.name, wants.mac) {
            (Some(name), _, _) | (None, Some(name), _) => terms.push(Term::Concerns(namespace, name.clone())),
            (None, None, Some(mac)) => terms.push(Term::Mac(mac)),
            (None, None, None) => terms.push(Term::WaitsIn(namespace)),
        }
        terms
    }
}

impl Indexed for Address {
    fn terms(&self) -> Vec<Term> {
        let owner = self.spec.owner.iter().map(|owner| Term::BelongsTo(owner.namespace.clone(), owner.name.clone()));
        owner.chain([Term::Mac(self.spec.mac)]).collect()
    }
}

impl Indexed for MachineInventory {
    fn terms(&self) -> Vec<Term> {
        let facts = &self.spec.facts;
        let uuid = facts.uuid.iter().filter(|uuid| identifies_by_uuid(uuid)).map(|uuid| Term::Uuid(uuid.to_ascii_lowercase()));
        let serial = facts.serial.iter().filter(|serial| identifies_by_serial(serial)).map(|serial| Term::Serial(serial.clone()));
        uuid.chain(serial).collect()
    }
}

/// Kinds of which there are few, or that are looked at by their names only.
macro_rules! found_by_name {
    ($($kind:ty),*) => {
        $(impl Indexed for $kind {
            fn terms(&self) -> Vec<Term> {
                Vec::new()
            }
        })*
    };
}

found_by_name!(BootProfile, BootReport, Subnet, Lease, Secret);
