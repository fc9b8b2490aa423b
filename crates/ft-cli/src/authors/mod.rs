//! Models that write data: one that `ft generate` runs, or one behind an API as OpenAI's.

#[cfg(feature = "hub")]
mod endpoint;
mod local;

use ft_data::{AskedModel, Author, Question, Reply};

use crate::device::{self, DeviceChoice, Picked};
use crate::failure::Failure;
use local::Local;

/// The models that were asked so far.
pub struct Authors {
    device: DeviceChoice,
    picked: Option<Picked>,
    local: Vec<(String, Local)>,
    #[cfg(feature = "hub")]
    endpoints: Vec<(AskedModel, endpoint::Endpoint)>,
}

impl Authors {
    /// None yet; those of this machine compute on `device`.
    pub fn new(device: DeviceChoice) -> Self {
        Self {
            device,
            picked: None,
            local: Vec::new(),
            #[cfg(feature = "hub")]
            endpoints: Vec::new(),
        }
    }

    fn local(&mut self, model: &str) -> Result<&Local, Failure> {
        if let Some(at) = self.local.iter().position(|(name, _)| name == model) {
            return Ok(&self.local[at].1);
        }
        let picked = match self.picked.take() {
            Some(picked) => picked,
            None => device::pick(self.device)?,
        };
        let opened = Local::open(model, &picked);
        self.picked = Some(picked);
        self.local.push((model.to_owned(), opened?));
        Ok(&self.local[self.local.len() - 1].1)
    }

    #[cfg(feature = "hub")]
    fn remote(&mut self, by: &AskedModel, address: &str, questions: &[Question]) -> Result<Vec<Reply>, Failure> {
        if !self.endpoints.iter().any(|(known, _)| known == by) {
            self.endpoints.push((by.clone(), endpoint::Endpoint::new(by, address)?));
        }
        let found = self.endpoints.iter().find(|(known, _)| known == by);
        found.map_or(Ok(Vec::new()), |(_, endpoint)| endpoint.ask(questions))
    }

    #[cfg(not(feature = "hub"))]
    fn remote(&mut self, _: &AskedModel, address: &str, _: &[Question]) -> Result<Vec<Reply>, Failure> {
        Err(Failure::new(format!(
            "{address}: this program was built without the feature `hub`, and speaks to nobody"
        )))
    }
}

impl Author for Authors {
    type Error = Failure;

    fn ask(&mut self, by: &AskedModel, questions: &[Question]) -> Result<Vec<Reply>, Failure> {
        match by.address() {
            Some(address) => self.remote(by, address, questions),
            None => self.local(&by.model)?.ask(by, questions),
        }
    }
}
