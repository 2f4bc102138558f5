//! The maps, by the names and types of `nameward_abi::maps`. The loader sets the sizes of an endpoint's maps;
//! those written here are what holds without it.

use aya_ebpf::{
    bindings::BPF_F_NO_PREALLOC,
    macros::map,
    maps::{Array, HashMap, LpmTrie, LruHashMap, PerCpuArray, RingBuf},
};
use nameward_abi::{
    Address, Admitted, Allow, CidrRule, Config, Counter, DnsFlow, DnsFlowKey, EventBudget, Flow, FlowKey,
    Fold, FoldKey, FragmentKey, Identity, PortKey, PortRule, REASONS,
};

#[map]
pub static ALLOW: HashMap<Address, Allow> = HashMap::with_max_entries(4_096, BPF_F_NO_PREALLOC);
#[map]
pub static ADMITTED: HashMap<u32, Admitted> = HashMap::with_max_entries(8_192, BPF_F_NO_PREALLOC);
#[map]
pub static CIDRS: LpmTrie<Address, CidrRule> = LpmTrie::with_max_entries(8_192, 0);
#[map]
pub static PORTS: LpmTrie<PortKey, PortRule> = LpmTrie::with_max_entries(4_096, 0);
#[map]
pub static FLOWS: HashMap<FlowKey, Flow> = HashMap::with_max_entries(4_096, BPF_F_NO_PREALLOC);
#[map]
pub static FLEETING: LruHashMap<FlowKey, Flow> = LruHashMap::with_max_entries(4_096, 0);
#[map]
pub static FRAGMENTS: LruHashMap<FragmentKey, u64> = LruHashMap::with_max_entries(512, 0);
#[map]
pub static NEIGHBOURS: LruHashMap<Address, u64> = LruHashMap::with_max_entries(256, 0);
#[map]
pub static DNS_FLOWS: LruHashMap<DnsFlowKey, DnsFlow> = LruHashMap::with_max_entries(768, 0);
#[map]
pub static CONFIG: Array<Config> = Array::with_max_entries(1, 0);
#[map]
pub static STATS: PerCpuArray<Counter> = PerCpuArray::with_max_entries(REASONS as u32, 0);
#[map]
pub static FOLDS: LruHashMap<FoldKey, Fold> = LruHashMap::with_max_entries(1_024, 0);
#[map]
pub static EVENT_BUDGET: Array<EventBudget> = Array::with_max_entries(1, 0);
#[map]
pub static EVENTS: RingBuf = RingBuf::with_byte_size(1 << 20, 0);
#[map]
pub static HEARTBEAT: Array<u64> = Array::with_max_entries(1, 0);
#[map]
pub static SUSPENDED: Array<u64> = Array::with_max_entries(1, 0);
#[map]
pub static IDENTITIES: HashMap<Address, Identity> = HashMap::with_max_entries(16_384, BPF_F_NO_PREALLOC);
/// What `DNS_FLOWS` entries begin as: too large for the stack. Never written, and nobody's but the programs'.
#[map]
pub static BLANK_DNS_FLOW: Array<DnsFlow> = Array::with_max_entries(1, 0);
