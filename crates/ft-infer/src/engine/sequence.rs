//! One request on its way: its tokens, its cache, and how its next token is chosen.

use std::collections::HashMap;
use std::time::Instant;

use ft_data::ChaCha8Rng;
use ft_model::{KvCache, NextTokens};

use crate::beam::Search;
use crate::engine::events::{Event, Sender};
use crate::engine::lookup::{self, Reach};
use crate::engine::scores::TokenScore;
use crate::engine::whose::Whose;
use crate::engine::{Request, RequestError};
use crate::generation::FinishReason;
use crate::penalty;
use crate::sample::{argmax, draw};

pub(crate) struct Sequence {
    pub request: Request,
    pub whose: Whose,
    events: Sender,
    /// Prompt and answer so far. All but the tokens behind `cache.len()` are in the cache.
    pub tokens: Vec<u32>,
    pub cache: KvCache,
    rng: ChaCha8Rng,
    prompt_scores: Vec<Option<TokenScore>>,
    reach: Reach,
    /// How many of `tokens`, the last ones, are speculation: for the length of a step.
    drafted: usize,
    /// The beams, once the prompt is read, where there are several.
    search: Option<Box<Search>>,
    pub arrived: Instant,
}

/// What a step tells of the token behind one.
#[derive(Debug)]
pub(crate) enum Answer<'a> {
    /// All logits `[vocab]`.
    Logits(&'a mut [f32]),
    /// The largest, where nothing else is asked for.
    Largest(u32, f32),
}

impl Sequence {
    pub fn new(request: Request, whose: Whose, events: Sender, layers: usize) -> Self {
        Self {
            tokens: request.prompt.clone(),
            whose,
            events,
            cache: KvCache::new(layers),
            rng: ft_data::stream(request.config.seed, &format!("sample/{}", request.choice)),
            prompt_scores: Vec::new(),
            reach: Reach::START,
            drafted: 0,
            search: None,
            arrived: Instant::now(),
            request,
        }
    }

    pub fn generated(&self) -> usize {
        self.tokens.len() - self.request.prompt.len()
    }

    /// Positions of the cache that its tokens take, those of its adapter's virtual tokens included, for each of its beams.
    pub fn room(&self) -> usize {
        let len = self.search.as_ref().map_or(self.tokens.len(), |search| search.tokens());
        KvCache::room(self.whose.virtual_tokens + len) * self.request.config.num_beams
    }

    /// Tokens that are not in the cache yet; of several beams, the last of each.
    pub fn ahead(&self) -> usize {
        match &self.search {
            Some(_) => self.request.config.num_beams,
            None => self.tokens.len() - self.cache.len(),
        }
    }

    /// Whether its next step continues an answer, and reads no prompt.
    pub fn decodes(&self) -> bool {
        self.search.is_some() || self.ahead() == 1 + self.drafted
    }

    /// Whether it keeps several beams.
    pub fn searches(&self) -> bool {
        self.request.config.num_beams > 1
    }

    /// The last tokens that it takes in of which the logits are needed once it has taken in all.
    pub fn judged(&self) -> usize {
        match &self.search {
            Some(_) => self.request.config.num_beams,
            None => 1 + self.drafted,
        }
    }

    /// Takes the next `count` tokens into a step.
    pub fn next(&mut self, count: usize) -> Vec<NextTokens<'_>> {
        if let Some(search) = &mut self.search {
            return search.last_tokens();
        }
        let from = self.cache.len();
        let ids = &self.tokens[from..from + count];
        vec![NextTokens {
            cache: &mut self.cache,
            ids,
        }]
    }

    /// Whether the largest logit is all that is needed of a row.
    pub fn takes_largest(&self) -> bool {
        let Request {
            config,
            presence_penalty,
            frequency_penalty,
            logit_bias,
            structure,
            scores,
            ..
        } = &self.request;
        let greedy = !config.do_sample && config.num_beams == 1 && !penalty::applies(config);
        let as_it_is = *presence_penalty == 0.0 && *frequency_penalty == 0.0 && logit_bias.is_empty();
        greedy && as_it_is && structure.is_none() && scores.is_none() && !self.wants_prompt_scores()
    }

    /// Appends at most `most` tokens that may come next. They take no room of the cache that the sequence does not have.
    pub fn speculate(&mut self, most: usize) {
        // A state that took in a wrong guess cannot be taken back.
        if self.searches() || !self.cache.can_be_cut() {
            return;
        }
        let left = self.request.config.max_new_tokens.saturating_sub(self.generated() + 1);
        let held = self.whose.virtual_tokens + self.tokens.len();
        let room = KvCache::room(held) - held;
        let draft = lookup::follow(&self.tokens, self.reach.of(most).min(left).min(room));
        self.drafted = draft.len();
        self.tokens.extend(draft);
    }

    /// Takes the speculation back.
    pub fn take_draft(&mut self) -> Vec<u32> {
        let draft = self.tokens.split_off(self.tokens.len() - self.drafted);
        self.drafted = 0;
        draft
    }

    /// Takes note of how much of a speculation was right, and forgets keys and values of the rest.
    pub fn keep(&mut self, drafted: usize, right: usize) {
        if drafted > 0 {
            self.reach = self.reach.after(drafted, right);
            self.cache.truncate(self.cache.len() - (drafted - right));
        }
    }

    /// Forgets keys and values; they are computed again, to the same bits. A search starts again.
    pub fn drop_cache(&mut self, layers: usize) {
        self.cache = KvCache::new(layers);
        self.search = None;
    }

    /// Why it cannot go on, if it cannot: nobody listens (which needs no answer), or its time is over.
    pub fn stopped(&self, now: Instant) -> Option<Option<RequestError>> {
        let late = self.request.deadline.is_some_and(|deadline| now >= deadline);
        let late = late.then(|| RequestError::TimedOut {
            generated: self.generated(),
        });
        match self.events.abandoned() {
            true => Some(None),
            false => late.map(Some),
        }
    }

    pub fn end(self, how: Result<FinishReason, RequestError>) {
        self.events.send(Event::End(how));
    }

    /// Whether scores of prompt tokens are still to be computed behind what the cache holds.
    pub fn wants_prompt_scores(&self) -> bool {
        self.request.prompt_scores.is_some() && self.prompt_scores.len() < self.request.prompt.len()
    }

    /// Takes the logits of the tokens from `start` on, `[count, vocab]`: each scores the prompt token behind it.
    pub fn score_prompt(&mut self, start: usize, logits: &[f32], vocab: usize) {
        let Some(top) = self.request.prompt_scores else { return };
        if self.prompt_scores.is_empty() {
            self.prompt_scores.push(None);
        }
        let (from, end) = (self.prompt_scores.len(), self.request.prompt.len());
        let rows = logits.len() / vocab;
        let until = (start + rows + 1).min(end);
        // After a preemption the first rows were scored before.
        if from > start && from < until {
            let known = (from - 1 - start) * vocab;
            let ids = &self.request.prompt[from..until];
            let scores = TokenScore::of_rows(&logits[known..], vocab, ids, top);
            self.prompt_scores.extend(scores.into_iter().map(Some));
        }
        if self.prompt_scores.len() == end {
            self.events.send(Event::Prompt(self.prompt_scores.clone()));
        }
    }

    /// Takes the logits `[beams, vocab]` of all beams a token further; how the search ended, if it did. The answer is handed on then.
    pub fn search(&mut self, logits: &mut [f32], vocab: usize) -> Option<Result<FinishReason, RequestError>> {
        let config = &self.request.config;
        let (prompt, cache) = (&self.tokens, &mut self.cache);
        let begin = || Box::new(Search::new(prompt, std::mem::replace(cache, KvCache::new(0)), config));
        let search = self.search.get_or_insert_with(begin);
        let Some(goes_on) = search.advance(logits, vocab, config) else {
            let generated = search.tokens() - self.tokens.len();
            return Some(Err(RequestError::NotFinite { generated }));
        };
        if goes_on {
            return None;
        }
        let answer = search.best();
        let stops = answer.last().is_some_and(|id| config.stops_at(*id));
        let how = if stops {
            FinishReason::Stop
        } else {
            FinishReason::Length
        };
        for (at, id) in (1..).zip(&answer) {
            let finish = (at == answer.len()).then_some(how);
            let (id, score) = (*id, None);
            self.events.send(Event::Token { id, score, finish });
        }
        self.tokens.extend(answer);
        Some(Ok(how))
    }

    /// Chooses the next token and hands it on; how it ended, if it did.
    pub fn choose(&mut self, answer: Answer<'_>) -> Option<Result<FinishReason, RequestError>> {
        if self.request.config.max_new_tokens == 0 {
            return Some(Ok(FinishReason::Length));
        }
        let logits = match answer {
            Answer::Logits(logits) => logits,
            Answer::Largest(id, logit) if logit.is_finite() => return self.take(id, None, false),
            Answer::Largest(..) => {
                let generated = self.generated();
                return Some(Err(RequestError::NotFinite { generated }));
            }
        };
        let asked = self.request.scores;
        let raw = asked.map(|_| logits.to_vec());
        let generated = self.generated();
        let broken = |why| Some(Err(RequestError::Structure { generated, why }));
        if let Some(structure) = &mut self.request.structure
            && let Err(why) = structure.restrict(logits)
        {
            return broken(why);
        }
        let Some(id) = self.pick(logits) else {
            return Some(Err(RequestError::NotFinite { generated }));
        };
        let ended = match &mut self.request.structure {
            None => false,
            Some(structure) => match structure.take(id) {
                Ok(ended) => ended,
                Err(why) => return broken(why),
            },
        };
        let score = raw.zip(asked).map(|(raw, top)| TokenScore::of(&raw, id, top));
        self.take(id, score, ended)
    }

    /// Appends a token, which may end the answer, and hands it on.
    fn take(&mut self, id: u32, score: Option<TokenScore>, ends: bool) -> Option<Result<FinishReason, RequestError>> {
        self.tokens.push(id);
        let config = &self.request.config;
        let finish = match (ends || config.stops_at(id), self.generated() >= config.max_new_tokens) {
            (true, _) => Some(FinishReason::Stop),
            (false, true) => Some(FinishReason::Length),
            (false, false) => None,
        };
        self.events.send(Event::Token { id, score, finish });
        finish.map(Ok)
    }

    fn pick(&mut self, logits: &mut [f32]) -> Option<u32> {
        let (request, prompt) = (&self.request, self.request.prompt.len());
        penalty::penalize(logits, &self.tokens, &request.config);
        if request.presence_penalty != 0.0 || request.frequency_penalty != 0.0 {
            let mut counts: HashMap<u32, f32> = HashMap::new();
            self.tokens[prompt..]
                .iter()
                .for_each(|id| *counts.entry(*id).or_default() += 1.0);
            for (id, count) in counts {
                logits[id as usize] -= request.presence_penalty + request.frequency_penalty * count;
            }
        }
        for (id, bias) in &request.logit_bias {
            logits[*id as usize] += bias;
        }
        match request.config.do_sample {
            true => draw(logits, &request.config, &mut self.rng),
            false => argmax(logits).filter(|id| logits[*id as usize].is_finite()),
        }
    }
}
