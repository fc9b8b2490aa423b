//! `compile ARCHITECTURE CUDA FOLDER`: compiles every `.cu` of a folder by NVRTC as CubeCL does (`sm_90a`; headers of the folder `CUDA`) and puts the
//! PTX beside it. One line on standard output for every source that is refused, with the compiler's words; status 1 if there is one.

use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Mutex;

unsafe extern "C" {
    fn dlopen(name: *const c_char, flags: c_int) -> *mut c_void;
    fn dlsym(library: *mut c_void, name: *const c_char) -> *mut c_void;
}

const NOW: c_int = 2;

type Program = *mut c_void;

/// NVRTC's functions, by `nvrtc.h`.
struct Nvrtc {
    create:
        unsafe extern "C" fn(*mut Program, *const c_char, *const c_char, c_int, *const c_void, *const c_void) -> c_int,
    compile: unsafe extern "C" fn(Program, c_int, *const *const c_char) -> c_int,
    log_size: unsafe extern "C" fn(Program, *mut usize) -> c_int,
    log: unsafe extern "C" fn(Program, *mut c_char) -> c_int,
    ptx_size: unsafe extern "C" fn(Program, *mut usize) -> c_int,
    ptx: unsafe extern "C" fn(Program, *mut c_char) -> c_int,
    destroy: unsafe extern "C" fn(*mut Program) -> c_int,
}

impl Nvrtc {
    #[allow(clippy::missing_transmute_annotations)] // the fields have the types
    fn open(cuda: &Path) -> Result<Self, String> {
        let library = ["lib", "lib64"]
            .iter()
            .flat_map(|lib| std::fs::read_dir(cuda.join(lib)).into_iter().flatten().flatten());
        let library = library.map(|entry| entry.path()).find(|path| {
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            name.starts_with("libnvrtc.so")
        });
        let library = library.ok_or_else(|| format!("{}: no libnvrtc.so in lib or lib64", cuda.display()))?;
        let name = CString::new(library.to_string_lossy().into_owned()).map_err(|e| e.to_string())?;
        // SAFETY: NVIDIA's library, whose functions have the types above by its header.
        unsafe {
            let handle = dlopen(name.as_ptr(), NOW);
            if handle.is_null() {
                return Err(format!("{}: it cannot be loaded", library.display()));
            }
            let of = |name: &CStr| match dlsym(handle, name.as_ptr()) {
                found if found.is_null() => Err(format!("{}: no {}", library.display(), name.to_string_lossy())),
                found => Ok(found),
            };
            Ok(Self {
                create: std::mem::transmute(of(c"nvrtcCreateProgram")?),
                compile: std::mem::transmute(of(c"nvrtcCompileProgram")?),
                log_size: std::mem::transmute(of(c"nvrtcGetProgramLogSize")?),
                log: std::mem::transmute(of(c"nvrtcGetProgramLog")?),
                ptx_size: std::mem::transmute(of(c"nvrtcGetPTXSize")?),
                ptx: std::mem::transmute(of(c"nvrtcGetPTX")?),
                destroy: std::mem::transmute(of(c"nvrtcDestroyProgram")?),
            })
        }
    }

    /// The PTX of a source, or what the compiler says of it.
    fn compile(&self, source: &CStr, options: &[CString]) -> Result<Vec<u8>, String> {
        let pointers: Vec<*const c_char> = options.iter().map(|option| option.as_ptr()).collect();
        let mut program = std::ptr::null_mut();
        // SAFETY: as `nvrtc.h` asks: the source outlives the program, buffers have the sizes that were asked for.
        unsafe {
            (self.create)(
                &mut program,
                source.as_ptr(),
                std::ptr::null(),
                0,
                std::ptr::null(),
                std::ptr::null(),
            );
            let done = (self.compile)(program, pointers.len() as c_int, pointers.as_ptr()) == 0;
            let (size, text) = if done {
                (self.ptx_size, self.ptx)
            } else {
                (self.log_size, self.log)
            };
            let mut length = 0;
            size(program, &mut length);
            let mut bytes = vec![0u8; length.max(1)];
            text(program, bytes.as_mut_ptr().cast());
            (self.destroy)(&mut program);
            bytes.pop(); // the zero at the end
            if done {
                Ok(bytes)
            } else {
                Err(String::from_utf8_lossy(&bytes).into_owned())
            }
        }
    }
}

fn main() -> ExitCode {
    let args: Vec<PathBuf> = std::env::args_os().skip(1).map(PathBuf::from).collect();
    let [architecture, cuda, folder] = args.as_slice() else {
        eprintln!("compile ARCHITECTURE CUDA FOLDER");
        return ExitCode::from(2);
    };
    match all(&architecture.to_string_lossy(), cuda, folder) {
        Ok(0) => ExitCode::SUCCESS,
        Ok(_) => ExitCode::FAILURE,
        Err(why) => {
            eprintln!("compile: {why}");
            ExitCode::from(2)
        }
    }
}

/// How many were refused.
fn all(architecture: &str, cuda: &Path, folder: &Path) -> Result<usize, String> {
    let nvrtc = Nvrtc::open(cuda)?;
    let include = cuda.join("include");
    let options = [
        format!("--gpu-architecture={architecture}"),
        format!("--include-path={}", include.display()),
        "-lineinfo".into(),
        format!("--include-path={}", include.join("cccl").display()),
    ];
    let options: Vec<CString> = options
        .into_iter()
        .map(|option| CString::new(option).expect("no zero in a path"))
        .collect();
    let entries = std::fs::read_dir(folder).map_err(|e| format!("{}: {e}", folder.display()))?;
    let sources = entries
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| path.extension().is_some_and(|e| e == "cu"));
    let sources = Mutex::new(sources.collect::<Vec<_>>());
    let refused = Mutex::new(0);
    let workers = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..workers {
            scope.spawn(|| {
                loop {
                    let Some(path) = sources.lock().expect("no panic").pop() else {
                        break;
                    };
                    let text = std::fs::read(&path).unwrap_or_default();
                    let compiled = CString::new(text).map_err(|e| e.to_string());
                    let compiled = compiled.and_then(|source| nvrtc.compile(&source, &options));
                    let written = compiled
                        .and_then(|ptx| std::fs::write(path.with_extension("ptx"), ptx).map_err(|e| e.to_string()));
                    if let Err(why) = written {
                        println!("{}: {}", path.display(), why.trim().replace('\n', " "));
                        *refused.lock().expect("no panic") += 1;
                    }
                }
            });
        }
    });
    refused.into_inner().map_err(|e| e.to_string())
}
