//! What is asked of the firmware.

extern crate alloc;

use alloc::{borrow::ToOwned, boxed::Box, format, vec::Vec};
use core::fmt::Write as _;

use athanor_local_disk::{Candidate, defaults, entries, leads_elsewhere};
use uefi::{
    CString16, Handle, Status,
    boot::{self, LoadImageSource, OpenProtocolAttributes, OpenProtocolParams, ScopedProtocol},
    cstr16, entry,
    proto::{
        BootPolicy, ProtocolPointer,
        device_path::{
            DevicePath,
            text::{AllowShortcuts, DisplayOnly},
        },
        loaded_image::LoadedImage,
        media::{block::BlockIO, fs::SimpleFileSystem},
    },
    runtime::{self, VariableVendor},
};

/// The loader that firmware looks for (UEFI 2.10 section 3.5.1.1).
const DEFAULT: &str = if cfg!(target_arch = "aarch64") { r"\EFI\BOOT\BOOTAA64.EFI" } else { r"\EFI\BOOT\BOOTX64.EFI" };

/// Bus, bridges, controller, port, disk, partition, file system: deeper is nobody's disk.
const LAYERS: usize = 12;

#[entry]
fn main() -> Status {
    say("Athanor: starting the local disk");
    let order = order();
    // What the firmware would boot comes first. Firmware in a hurry has connected nothing but the network card it booted from.
    if start_first(&entries(&order, &volumes(), DEFAULT)) {
        return Status::SUCCESS;
    }
    connect_disks();
    let volumes = volumes();
    if start_first(&entries(&order, &volumes, DEFAULT)) || start_first(&defaults(&volumes, DEFAULT)) {
        return Status::SUCCESS;
    }
    say("Athanor: no disk of this machine starts; the firmware goes on");
    Status::NOT_FOUND
}

/// Starts the first that can be. What starts seldom comes back; somebody who left it on purpose wants no other (UEFI 2.10 section 3.1.1).
fn start_first(candidates: &[Candidate]) -> bool {
    candidates.iter().any(|candidate| match start(candidate) {
        Ok(()) => true,
        Err(error) => {
            say(&format!("Athanor: {}: {}", name(candidate), error.status()));
            false
        }
    })
}

fn start(candidate: &Candidate) -> uefi::Result {
    let Ok(device_path) = <&DevicePath>::try_from(candidate.path.as_slice()) else { return Err(Status::INVALID_PARAMETER.into()) };
    let source = LoadImageSource::FromDevicePath { device_path, boot_policy: BootPolicy::ExactMatch };
    let image = boot::load_image(boot::image_handle(), source)?;
    say(&format!("Athanor: starting {}", name(candidate)));
    if !candidate.options.is_empty() {
        // Whoever is started may look at them until the machine is off.
        let options: &'static [u8] = Box::leak(candidate.options.clone().into_boxed_slice());
        let length = u32::try_from(options.len()).unwrap_or_default();
        let mut loaded = boot::open_protocol_exclusive::<LoadedImage>(image)?;
        #[allow(unsafe_code, reason = "the bytes are there for ever and are as long as is said")]
        unsafe {
            loaded.set_load_options(options.as_ptr(), length);
        }
    }
    boot::start_image(image)
}

/// The firmware's boot entries in its order.
fn order() -> Vec<Vec<u8>> {
    let vendor = &VariableVendor::GLOBAL_VARIABLE;
    let Ok((order, _)) = runtime::get_variable_boxed(cstr16!("BootOrder"), vendor) else { return Vec::new() };
    let read = |number: &[u8]| {
        let name = CString16::try_from(format!("Boot{:02X}{:02X}", number[1], number[0]).as_str()).ok()?;
        Some(runtime::get_variable_boxed(&name, vendor).ok()?.0.into_vec())
    };
    order.chunks_exact(2).filter_map(read).collect()
}

/// The device paths of file systems on disks that nobody can take out.
fn volumes() -> Vec<Vec<u8>> {
    let handles = boot::find_handles::<SimpleFileSystem>().unwrap_or_default();
    let fixed = |handle: &Handle| peek::<BlockIO>(*handle).is_some_and(|disk| !disk.media().is_removable_media());
    let path = |handle: Handle| Some(peek::<DevicePath>(handle)?.as_bytes().to_owned());
    handles.into_iter().filter(fixed).filter_map(path).collect()
}

/// Connects what may lead to a disk, a layer at a time. Networks are left as they are: firmware's protocols on top of a network card that iPXE
/// lends it for a while are still there when iPXE is not, and the next kernel finds them in memory that is somebody else's.
fn connect_disks() {
    let mut known = usize::MAX;
    for _ in 0..LAYERS {
        let handles = boot::find_handles::<DevicePath>().unwrap_or_default();
        if handles.len() == known {
            return;
        }
        known = handles.len();
        for handle in handles {
            if peek::<DevicePath>(handle).is_some_and(|path| !leads_elsewhere(path.as_bytes())) {
                // Most handles are no controllers.
                let _ = boot::connect_controller(handle, &[], None, false);
            }
        }
    }
}

/// Looks at a protocol without taking it from whoever uses it: taking a disk's would disconnect its file system.
fn peek<P: ProtocolPointer + ?Sized>(handle: Handle) -> Option<ScopedProtocol<P>> {
    let params = OpenProtocolParams { handle, agent: boot::image_handle(), controller: None };
    #[allow(unsafe_code, reason = "nothing is connected or disconnected while it is looked at, and nothing is written through it")]
    unsafe {
        boot::open_protocol(params, OpenProtocolAttributes::GetProtocol).ok()
    }
}

/// A candidate's place, as firmware writes it.
fn name(candidate: &Candidate) -> CString16 {
    let path = <&DevicePath>::try_from(candidate.path.as_slice()).ok();
    let text = path.and_then(|path| path.to_string16(DisplayOnly(true), AllowShortcuts(true)).ok());
    text.map_or_else(|| cstr16!("its disk").to_owned(), |text| CString16::from(&*text))
}

/// Says something, where there is somebody to say it to: a console that fails is no reason to boot nothing.
fn say(line: &str) {
    let Some(table) = uefi::table::system_table_raw() else { return };
    #[allow(unsafe_code, reason = "the firmware's table is there as long as this program")]
    let mute = unsafe { table.as_ref() }.stdout.is_null();
    if !mute {
        let _ = uefi::system::with_stdout(|out| writeln!(out, "{line}"));
    }
}

/// Nothing here panics; if a library does, the firmware goes on.
#[panic_handler]
fn panicked(_: &core::panic::PanicInfo<'_>) -> ! {
    #[allow(unsafe_code, reason = "nothing of this image is used after its exit")]
    let _ = unsafe { boot::exit(boot::image_handle(), Status::ABORTED, 0, core::ptr::null_mut()) };
    loop {
        core::hint::spin_loop();
    }
}
