//! `--device` where a run may take several devices: `cuda:0,cuda:1`, `cuda:all`. Each is a rank of the run.

use std::str::FromStr;

use super::{DeviceChoice, Gpu, Picked, cpu, is_software, named, pick, present};
use crate::failure::Failure;

/// One device, or several of one kind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DevicesChoice {
    One(DeviceChoice),
    /// As many ranks on the one CPU: it stands for as many cards.
    Cpus(Vec<usize>),
    Cards(Gpu, Vec<usize>),
    All(Gpu),
}

impl FromStr for DevicesChoice {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let gpu = |name: &str| Gpu::ALL.into_iter().find(|gpu| gpu.name() == name);
        if let Some(name) = text.strip_suffix(":all") {
            return match gpu(name) {
                Some(gpu) => Ok(Self::All(gpu)),
                None if name == "cpu" => Err("the CPU is one device; it takes several ranks as cpu:0,cpu:1".into()),
                None => Err(format!(
                    "`{name}` is no kind of card: expected cuda:all, vulkan:all or wgpu:all"
                )),
            };
        }
        if !text.contains(',') {
            return text.parse().map(Self::One);
        }
        let (mut kind, mut numbers) = (None, Vec::new());
        for item in text.split(',').map(str::trim) {
            let (name, number) = item
                .split_once(':')
                .ok_or_else(|| format!("`{item}` needs a number among several devices, such as cuda:0,cuda:1"))?;
            let number: usize = number.parse().map_err(|_| format!("`{number}` is no device number"))?;
            if *kind.get_or_insert(name) != name {
                let first = kind.unwrap_or(name);
                return Err(format!(
                    "devices of one run are of one kind, not `{first}` and `{name}`"
                ));
            }
            if numbers.contains(&number) {
                return Err(format!("`{item}` is named twice"));
            }
            numbers.push(number);
        }
        match kind {
            Some("cpu") => Ok(Self::Cpus(numbers)),
            Some(name) => gpu(name)
                .map(|gpu| Self::Cards(gpu, numbers))
                .ok_or_else(|| format!("`{name}` is no kind of device: expected cuda, vulkan, wgpu or cpu")),
            None => Err("no device is named".into()),
        }
    }
}

impl DevicesChoice {
    /// The one device that is asked for.
    pub fn one(&self) -> Option<DeviceChoice> {
        match self {
            Self::One(choice) => Some(*choice),
            Self::Cpus(_) | Self::Cards(..) | Self::All(_) => None,
        }
    }
}

/// The devices, in the order in which they are named. Call it once, before anything else touches a tensor.
pub fn pick_all(choice: &DevicesChoice) -> Result<Vec<Picked>, Failure> {
    let cards = |gpu: Gpu, numbers: &[usize]| numbers.iter().map(|number| named(gpu, Some(*number))).collect();
    match choice {
        DevicesChoice::One(choice) => Ok(vec![pick(*choice)?]),
        DevicesChoice::Cards(gpu, numbers) => cards(*gpu, numbers),
        DevicesChoice::Cpus(numbers) => {
            let Picked { device, .. } = cpu()?;
            let rank = |number: &usize| Picked {
                device: device.clone(),
                name: format!("cpu:{number}"),
            };
            Ok(numbers.iter().map(rank).collect())
        }
        DevicesChoice::All(gpu) => {
            let found = present(*gpu).unwrap_or_default().into_iter().enumerate();
            let real = found.filter(|(_, device)| !is_software(*gpu, device));
            let numbers: Vec<usize> = real.map(|(number, _)| number).collect();
            match numbers.is_empty() {
                true => Ok(vec![named(*gpu, None)?]),
                false => cards(*gpu, &numbers),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_several_or_all() {
        let read = |text: &str| text.parse::<DevicesChoice>().unwrap();
        assert_eq!(read("auto"), DevicesChoice::One(DeviceChoice::Auto));
        assert_eq!(
            read("cuda:1"),
            DevicesChoice::One(DeviceChoice::Gpu(Gpu::Cuda, Some(1)))
        );
        assert_eq!(read("cuda:2,cuda:0"), DevicesChoice::Cards(Gpu::Cuda, vec![2, 0]));
        assert_eq!(read("vulkan:all"), DevicesChoice::All(Gpu::Vulkan));
        assert_eq!(read("cpu:0, cpu:1"), DevicesChoice::Cpus(vec![0, 1]));
        assert_eq!(read("cpu:0,cpu:1").one(), None);
    }

    #[test]
    fn what_makes_no_set_of_devices_is_refused_in_words() {
        for (text, part) in [
            ("cuda:0,vulkan:1", "`cuda` and `vulkan`"),
            ("cuda:1,cuda:1", "named twice"),
            ("cuda,cuda:1", "`cuda` needs a number"),
            ("cuda:0,cuda:x", "`x`"),
            ("tpu:0,tpu:1", "`tpu`"),
            ("cpu:all", "cpu:0,cpu:1"),
            ("gpu:all", "cuda:all"),
            ("cpu:1", "no number"),
            ("cuda:0,", "needs a number"),
        ] {
            let error = text.parse::<DevicesChoice>().unwrap_err();
            assert!(error.contains(part), "{text}: {error}");
        }
    }
}
