//! Every CUDA kernel compiles for every generation of devices; needs NVRTC, but no GPU.
#![cfg(feature = "cuda")]

use cudarc::nvrtc::{result, sys};
use foreword::backend::cuda::{INTRINSICS, Kernel};
use std::ffi::{CStr, CString};
use std::io::Write;

/// Shared memory that a block of any device has.
const SHARED_BYTES: usize = 48 << 10;

/// Architectures of Turing, Ampere, Ada, Hopper and Blackwell laptops and servers.
const ARCHITECTURES: [i32; 6] = [75, 80, 86, 89, 90, 120];

/// The machine code of a kernel, or the compiler's messages.
#[allow(unsafe_code, reason = "calls into NVRTC")]
fn compile(kernel: Kernel, architecture: i32) -> Result<Vec<u8>, String> {
    let text = |s: &str| CString::new(s).expect("no zeros in kernels");
    let (source, name) = (text(&kernel.source()), text(&format!("{}.cu", kernel.name())));
    let header = (text(INTRINSICS.0), text(INTRINSICS.1));
    // SAFETY: the strings live until the program is destroyed; buffers are as long as NVRTC says.
    unsafe {
        let mut program = std::ptr::null_mut();
        let headers = ([header.1.as_ptr()], [header.0.as_ptr()]);
        sys::nvrtcCreateProgram(
            &mut program,
            source.as_ptr(),
            name.as_ptr(),
            1,
            headers.0.as_ptr(),
            headers.1.as_ptr(),
        )
        .result()
        .map_err(|e| e.to_string())?;
        let options = [format!("--gpu-architecture=sm_{architecture}"), "--std=c++17".to_string()];
        let compiled = result::compile_program(program, &options);
        let log: Vec<u8> = result::get_program_log(program).unwrap_or_default().into_iter().map(|c| c as u8).collect();
        let log = CStr::from_bytes_until_nul(&log).map(|l| l.to_string_lossy().into_owned()).unwrap_or_default();
        compiled.map_err(|e| format!("{e}\n{log}"))?;
        let mut size = 0;
        sys::nvrtcGetCUBINSize(program, &mut size).result().map_err(|e| e.to_string())?;
        let mut image = vec![0u8; size];
        sys::nvrtcGetCUBIN(program, image.as_mut_ptr().cast()).result().map_err(|e| e.to_string())?;
        result::destroy_program(program).map_err(|e| e.to_string())?;
        Ok(image)
    }
}

/// Bytes of a section of an ELF file whose name starts with `prefix`; the largest one. 64-bit little-endian.
fn section_bytes(elf: &[u8], prefix: &str) -> usize {
    let number = |at: usize, n: usize| elf[at..at + n].iter().rev().fold(0, |v, &b| v << 8 | usize::from(b));
    let (table, entry, count, names) = (number(40, 8), number(58, 2), number(60, 2), number(62, 2));
    let strings = number(table + names * entry + 24, 8);
    (0..count)
        .map(|i| table + i * entry)
        .filter(|&at| elf[strings + number(at, 4)..].starts_with(prefix.as_bytes()))
        .map(|at| number(at + 32, 8))
        .max()
        .unwrap_or(0)
}

#[test]
fn every_kernel_compiles_for_every_generation() {
    // SAFETY: only looks for the library.
    #[allow(unsafe_code, reason = "loads NVRTC")]
    let present = unsafe { sys::is_culib_present() };
    if !present {
        assert!(std::env::var_os("FOREWORD_REQUIRE_NVRTC").is_none(), "there is no NVRTC");
        _ = writeln!(std::io::stderr(), "SKIPPED: there is no NVRTC (pip install nvidia-cuda-nvrtc, see ./test)");
        return;
    }
    for (i, kernel) in Kernel::all().into_iter().enumerate() {
        // Each kernel for one architecture in turn, and all kernels of 7.5 and 9.0: what differs between the others is tuning.
        for architecture in [75, 90, ARCHITECTURES[i % ARCHITECTURES.len()]] {
            let needs_mma = format!("{kernel:?}").contains("Mma");
            if needs_mma && architecture < 80 {
                continue;
            }
            let code = compile(kernel, architecture).unwrap_or_else(|e| panic!("{kernel:?} for {architecture}: {e}"));
            let shared = section_bytes(&code, ".nv.shared");
            assert!(shared <= SHARED_BYTES, "{kernel:?} takes {shared} bytes of shared memory");
        }
    }
}
