//! Which keys a query sees, inside kernels: [`crate::Mask`].
use crate::cube::tile::Tile;
use cubecl::prelude::*;

/// The numbers of a mask. No window is a window of all columns.
#[derive(CubeType, CubeLaunch)]
pub(super) struct Sight {
    /// Queries.
    pub(super) s: usize,
    pub(super) prefix: i32,
    pub(super) offset: i32,
    pub(super) window: i32,
    /// `[b, s]`: first visible column of every query; `[2, b, s]` with the last ones behind them.
    pub(super) columns: ComptimeOption<Box<[i32]>>,
    /// Whether there are last ones. Else a query's own column is its last.
    #[cube(comptime)]
    pub(super) both: bool,
}

#[cube]
impl Sight {
    /// The first column after the prefix that query `i` of a sequence sees.
    pub(super) fn low(&self, batch: usize, i: usize) -> i32 {
        let near = i as i32 + self.offset + 1 - self.window;
        #[comptime]
        match &self.columns {
            ComptimeOption::Some(columns) => {
                let mut low = near;
                if i < self.s {
                    low = max(near, columns[batch * self.s + i]);
                }
                low
            }
            ComptimeOption::None => near,
        }
    }

    /// The last column that query `i` of a sequence sees.
    pub(super) fn high(&self, batch: usize, i: usize) -> i32 {
        let own = i as i32 + self.offset;
        #[comptime]
        match &self.columns {
            ComptimeOption::Some(columns) => {
                let mut high = own;
                if comptime!(self.both) {
                    high = -1;
                    if i < self.s {
                        high = columns[columns.len() / 2 + batch * self.s + i];
                    }
                }
                high
            }
            ComptimeOption::None => own,
        }
    }

    /// The lowest of [`low`](Self::low) of the queries `start ..` of a tile. All units have to come here, and know it after.
    pub(super) fn lowest(&self, batch: usize, start: usize, lows: &mut Shared<[i32]>, #[comptime] tile: Tile) -> i32 {
        let near = start as i32 + self.offset + 1 - self.window;
        #[comptime]
        match &self.columns {
            ComptimeOption::Some(columns) => {
                let unit = UNIT_POS as usize;
                sync_cube();
                if unit < tile.rows {
                    let mut low = i32::MAX.runtime();
                    if start + unit < self.s {
                        low = max(near + unit as i32, columns[batch * self.s + start + unit]);
                    }
                    lows[unit] = low;
                }
                sync_cube();
                if unit == 0 {
                    let mut low = lows[0];
                    for row in 1..tile.rows {
                        low = min(low, lows[row]);
                    }
                    lows[0] = low;
                }
                workgroup_uniform_load(&lows[0])
            }
            ComptimeOption::None => near,
        }
    }

    /// Keys up to the last one that the queries `start ..` of a tile see. All units have to come here, after [`lowest`](Self::lowest).
    pub(super) fn keys(&self, batch: usize, start: usize, lows: &mut Shared<[i32]>, #[comptime] tile: Tile) -> usize {
        let causal = (self.prefix + self.offset) as usize + min(start + tile.rows, self.s);
        #[comptime]
        match &self.columns {
            ComptimeOption::Some(columns) => {
                let mut end = causal;
                if comptime!(self.both) {
                    let unit = UNIT_POS as usize;
                    sync_cube();
                    if unit < tile.rows {
                        let mut high = -1i32.runtime();
                        if start + unit < self.s {
                            high = columns[columns.len() / 2 + batch * self.s + start + unit];
                        }
                        lows[unit] = high;
                    }
                    sync_cube();
                    if unit == 0 {
                        let mut high = lows[0];
                        for row in 1..tile.rows {
                            high = max(high, lows[row]);
                        }
                        lows[0] = high;
                    }
                    let high = workgroup_uniform_load(&lows[0]);
                    end = min(max(high + 1, 0) as usize, self.s);
                }
                end
            }
            ComptimeOption::None => causal,
        }
    }

    /// Whether query `i`, whose columns are those from `low` to `high`, sees key `j`.
    pub(super) fn sees(&self, i: usize, low: i32, high: i32, j: usize) -> bool {
        let column = j as i32 - self.prefix;
        let visible = column < 0 || (column >= low && column <= high);
        visible && i < self.s
    }

    /// Whether some key of the tile that begins at `key` lies in the prefix or at the columns from `low` on.
    pub(super) fn reaches(&self, key: usize, low: i32, #[comptime] tile: Tile) -> bool {
        let column = key as i32 - self.prefix;
        column < 0 || column + comptime!(tile.cols as i32) > low
    }
}

/// Where a tensor `[b, s, h, d]` has its rows: vectors from one to the next of each.
#[derive(CubeType, CubeLaunch)]
pub(super) struct Strides {
    pub(super) batch: usize,
    pub(super) seq: usize,
    pub(super) head: usize,
}

#[cube]
impl Strides {
    /// Where the rows of a head begin.
    pub(super) fn start(&self, batch: usize, head: usize) -> usize {
        batch * self.batch + head * self.head
    }
}
