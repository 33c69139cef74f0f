"""Every knob of a run: frozen dataclasses, a sentence under each field. Standard library only.

One YAML file fills one `RunConfig`; `configs.load` reads it. Sizes in pixels are areas (width x height).
"""

from __future__ import annotations

from dataclasses import dataclass, field

from configs.profiles import PROFILES


@dataclass(frozen=True)
class SourceConfig:
    """One of several data sets that a run trains on."""

    dataset: str = "mevis"
    """Layout of the data, a key of `cot_data.datasets.DATASETS`."""
    root: str = ""
    """Folder of the data set or of its split, as the file of its loader describes."""
    weight: float = 1.0
    """Its share of all draws is this over the sum of weights, whatever its size."""
    traces: str = ""
    """VTS-CoT JSON file for the cold start; empty: traces are written from the gold masks."""
    only: str = ""
    """RL JSON file of the VideoSEG-O3 release, whose expressions alone are trained on; empty: all of them."""


@dataclass(frozen=True)
class DataConfig:
    dataset: str = "mevis"
    """Layout of the data, a key of `cot_data.datasets.DATASETS`."""
    train_root: str = "runs/demo/data/train"
    """Folder with the training split."""
    eval_root: str = "runs/demo/data/heldout"
    """Folder with the held-out split."""
    traces: str = ""
    """VTS-CoT JSON file for the cold start; empty: traces are written from the gold masks of `train_root`."""
    train: tuple[SourceConfig, ...] = ()
    """Several data sets to train on, drawn by weight, in place of `train_root` and `traces`; empty: `train_root`."""


@dataclass(frozen=True)
class EnvConfig:
    prompt: str = "full"
    """Prompt wording, a key of `env.prompts.PROMPTS`: `full` for pretrained models, `brief` for tiny ones."""
    tools: tuple[str, ...] = ("zoom", "key_frame")
    """Tools that the policy may use, keys of `env.tools.TOOLS`; their frames are shown in this order."""
    strip_frames: int = 10
    """Low-resolution frames of the first observation, evenly spaced over the video."""
    detail_frames: int = 5
    """High-resolution frames of the first observation, evenly spaced over the video."""
    zoom_frames: int = 5
    """Most frames shown of a selected interval."""
    size_factor: int = 32
    """Frame sides are multiples of this: vision patch size times merge size."""
    strip_pixels: int = 32 * 28 * 28
    """Most pixels of a low-resolution frame of the first observation."""
    detail_pixels: int = 128 * 28 * 28
    """Most pixels of a high-resolution frame of the first observation."""
    zoom_pixels: int = 32 * 28 * 28
    """Most pixels of a frame of a selected interval."""
    key_pixels: int = 256 * 28 * 28
    """Most pixels of a selected key frame."""
    max_turns: int = 3
    """Turns of one episode; a select in the last one ends it."""
    max_action_tokens: int = 512
    """Most tokens the policy may write in one turn."""
    max_context_tokens: int = 8192
    """Most tokens of a whole trajectory, observations included."""
    max_seconds: float = 600.0
    """Wall-clock limit of one episode, which then ends as an error and is not scored."""
    max_turn_seconds: float = 300.0
    """Wall-clock limit of one turn, counted while the sampler writes it; the episode then ends as an error."""
    blind: bool = False
    """Show grey frames instead of the video: the baseline that only reads the question."""


@dataclass(frozen=True)
class SamConfig:
    """Which SAM 2 is built, and the numbers of the small one."""

    variant: str = "small"
    """`small` builds from the numbers below; else a config of the sam2 package, such as `sam2.1_hiera_l`."""
    checkpoint: str = ""
    """SAM 2 weights to start from (the published .pt files); empty: those of `policy.path`, or random if `small`."""
    image_size: int = 128
    """Side of the square that SAM 2 sees."""
    hidden: int = 64
    """Width of prompt encoder, mask decoder and memory attention."""
    embed: int = 32
    """Width of the first stage of the Hiera image encoder."""
    stages: tuple[int, ...] = (1, 1, 2, 1)
    """Blocks per stage of the Hiera image encoder."""
    memory_layers: int = 1
    """Layers of the memory attention."""
    inject_every_frame: bool = True
    """Whether [SEG] also prompts the frames its mask is carried to, as in the released evaluation; else the key frame
    alone. The run says which, not the checkpoint."""


@dataclass(frozen=True)
class PolicyConfig:
    kind: str = "videoseg"
    """Model family, a key of `rl.families.FAMILIES`; the `policy.json` of a checkpoint goes before it."""
    path: str = ""
    """Checkpoint folder to start from; empty: build the small default from the numbers below."""
    vocab_size: int = 640
    """Most entries of the tokenizer that is trained for the small default."""
    hidden: int = 128
    """Width of the small language model."""
    layers: int = 4
    """Layers of the small language model."""
    heads: int = 4
    """Attention heads of the small language model."""
    vision_hidden: int = 96
    """Width of the small vision tower."""
    vision_layers: int = 2
    """Blocks of the small vision tower."""
    patch_size: int = 8
    """Vision patch side of the small default."""
    merge_size: int = 2
    """So many by so many patches make one token of the small default."""
    init_std: float = 0.08
    """Standard deviation of the initial weights, about 1/sqrt(hidden)."""
    sam: SamConfig = field(default_factory=SamConfig)
    """SAM 2 beside the small default or a plain Qwen3-VL; a checkpoint of ours brings its own."""
    lora_rank: int = 0
    """Rank of LoRA adapters on the language model; 0 trains all weights."""
    lora_alpha: int = 16
    """Scale of the LoRA adapters."""
    lora_dropout: float = 0.0
    """Share of an adapter's inputs that is dropped in the cold start, 0 to below 1; GRPO and evaluation drop none."""
    lora_modules_to_save: tuple[str, ...] = ()
    """Modules that train in full beside the adapters: `lm_head`, or a part of the language model (`embed_tokens`)."""
    freeze_vision: bool = False
    """Keep the vision tower of `path` fixed; the sampler then keeps its encoder cache over weight syncs."""
    freeze_embeddings: bool = False
    """Keep the token embeddings of `path` fixed, and with them a head that is tied to them (LoRA does so anyway)."""
    compute_dtype: str = "float32"
    """Precision of forward and backward of vision tower and language model: float32, or bfloat16 by autocast. Weights,
    optimizer, log-probs and SAM 2 stay in float32."""
    recompute_activations: bool = False
    """Activation checkpointing of the same: their blocks run again in the backward pass, which saves most of the memory
    and costs about a third more time."""


@dataclass(frozen=True)
class SamplerConfig:
    kind: str = "vllm"
    """Engine, a key of `policy.engines.SAMPLERS`: `vllm` or `hf`."""
    dtype: str = "float32"
    """Engine precision."""
    memory_gb: float = 1.0
    """Key-value cache of the engine on CPU, in GiB."""
    gpu_memory_fraction: float = 0.45
    """Share of GPU memory the engine may take, where there is a GPU."""
    gpus_per_worker: float = 0.0
    """GPUs that Ray reserves for each rollout worker; a fraction shares one GPU with the learner."""
    max_sequences: int = 64
    """Most conversations that the engine decodes at once."""
    stall_seconds: float = 600.0
    """Silence of a worker, which answers twice a second, after which it counts as stuck and is replaced."""
    load_seconds: float = 3600.0
    """The same while it waits for its place on the cluster and loads its engine."""
    transfer_seconds: float = 300.0
    """Time that the learner's weights have to reach a worker, which is replaced otherwise."""


@dataclass(frozen=True)
class StageConfig:
    """One stage of the cold start."""

    kind: str = "dialogue"
    """What is learnt: `masks` (SAM 2 from captions), `vision` (what each cell of a frame shows), `captions` (what one
    frame shows), `dialogue` (VTS-CoT traces)."""
    steps: int = 1000
    """Optimizer steps."""
    epochs: int = 0
    """Passes over the traces, in place of `steps`, for `captions` and `dialogue`; 0: `steps` counts."""
    batch_size: int = 8
    """Sequences (frames for `masks` and `vision`) per step."""
    text_only_traces: int = 0
    """Further traces per step of `dialogue`, without frames: from what was seen to the answer."""
    lr: float = 1.5e-3
    """Highest learning rate, reached after the first 5 % of the steps."""
    lr_schedule: str = "plateau"
    """Of `captions` and `dialogue`, after that: `plateau` (held until the last 35 % of the steps, over which it falls
    to 0) or `cosine` (falls to 0 from there on)."""
    mask_coef: float = 1.0
    """Weight of the mask loss at every [SEG]: `bce_coef` x BCE + `dice_coef` x dice + 0.1 x that of the presence."""
    bce_coef: float = 1.0
    """Weight of BCE in the mask loss."""
    dice_coef: float = 0.5
    """Weight of dice in the mask loss."""
    mask_points: int = 0
    """Points of each mask at which BCE and dice are taken, most of them where it is unsure; 0: every pixel."""
    align_coef: float = 0.0
    """Weight of the pull of projected [SEG] states towards the caption prompts of the `masks` stage."""
    decision_weight: float = 1.0
    """Weight of tokens that decide (what an extra look shows, interval, key frame, name) against 1 for all others."""
    freeze_sam: bool = False
    """Keep SAM 2 fixed in this stage."""
    sam_parts: tuple[str, ...] = ()
    """Modules of SAM 2 that learn in `captions` and `dialogue`, such as `sam_mask_decoder`; empty: all of them."""


@dataclass(frozen=True)
class ColdStartConfig:
    stages: tuple[StageConfig, ...] = (StageConfig(),)
    """Stages in order."""
    zoom_share: float = 0.45
    """Share of written traces in few words (env.prompt `brief`) that look closer before they answer, where that pays;
    elsewhere a third of it. Below a half a greedy policy hardly ever looks, and GRPO has more to find."""
    mask_frames: int = 2
    """Frames whose masks are supervised at each [SEG], its key frame among them."""
    weight_decay: float = 0.05
    """AdamW weight decay."""
    betas: tuple[float, ...] = (0.9, 0.98)
    """AdamW decay rates of the gradient's mean and of its square, in `captions` and `dialogue`."""
    max_batch_tokens: int = 0
    """Most padded tokens of one micro-batch, whose gradients add up to that of the step's batch; 0: one micro-batch."""
    log_every: int = 10
    """Steps between metric records."""
    save_every: int = 500
    """Steps between checkpoints inside a stage."""


@dataclass(frozen=True)
class GrpoConfig:
    steps: int = 1000
    """RolloutPrefetcher, each followed by `updates` optimizer steps."""
    tasks_per_step: int = 8
    """Tasks per step."""
    group_size: int = 8
    """Trajectories per task."""
    max_oversampling: int = 1
    """Most groups drawn per step over `tasks_per_step`: above 1, others are drawn for groups of equal rewards."""
    rollout_ahead: int = 0
    """Steps that are played while an earlier one is still learnt from: 0 is on-policy; 1 keeps sampler and learner busy
    at once, with weights one step old, for which the truncated importance weight makes up."""
    lr: float = 1e-4
    """Learning rate."""
    warmup_steps: int = 5
    """RolloutPrefetcher of linear learning-rate warm-up."""
    lr_decays: bool = False
    """Let the learning rate fall in a straight line over the run, to 0 behind the last step."""
    weight_decay: float = 0.0
    """AdamW weight decay."""
    max_grad_norm: float = 1.0
    """Gradient norm is clipped to this."""
    updates: int = 1
    """Optimizer steps per rollout, at one learning rate; above 1 the policy ratio leaves 1 and clipping acts."""
    loss: str = "dapo"
    """Policy loss, a key of `rl.learner.policy_loss.LOSSES`: grpo, bnpo, dr_grpo, dapo, gspo or cispo."""
    clip_low: float = 0.2
    """Lower clip range of the policy ratio."""
    clip_high: float = 0.2
    """Upper clip range of the policy ratio; for `cispo` the cap itself (ScaleRL recommends 5)."""
    least_entropy: float = 0.0
    """Nats; tokens of less entropy (and without a mask) get no policy gradient, only the KL's. 0: all tokens learn."""
    kl_coef: float = 0.01
    """Weight of the KL to the reference policy; 0 keeps no reference."""
    kl_form: str = "k3"
    """Estimate of that KL, a key of `rl.learner.policy_loss.KLS`: k1, k2 or k3."""
    scale_by_std: bool = True
    """Divide advantages by the group's standard deviation."""
    truncate_weight: float = 2.0
    """Cap of the importance weight learner/sampler; 0 switches the correction off."""
    truncate_level: str = "token"
    """What that weight compares: each token, or the whole sequence. A key of
    `rl.learner.importance_sampling.LEVELS`."""
    calibration: str = "loglik"
    """Form of the mask term at [SEG], a key of `rl.learner.calibration.CALIBRATIONS`: loglik, iou or none."""
    calibration_coef: float = 1.0
    """Weight w of the mask term in log p_text + w * log p_mask."""
    calibration_threshold: float = 0.0
    """Logit above which a rollout mask pixel counts as set (the released code: 0.5)."""
    calibration_clip: float = 0.0
    """Most that w * log p_mask moves the log-ratio from the second update of a rollout on, either way; 0: no bound."""
    calibration_detach: bool = False
    """Let the mask term count in the policy ratio but send no gradient; at the first update that is `none`."""
    mask_coef: float = 0.2
    """Weight of the auxiliary mask loss, a mean over all decoded masks (rl/mask_channel.py tells what is released)."""
    mask_least_iou: float = 0.0
    """Mean J from which the masks of an answer learn from gold; 0: every [SEG] does, as in the released recipe."""
    freeze_sam: bool = False
    """Whether SAM 2 stays as it is; else its mask decoder and prompt encoder learn, as in the released recipe."""
    mask_frames: int = 4
    """Evenly spaced frames on which the last [SEG] is decoded for rewards and mask loss, besides its key frame."""
    masks: str = "sampled"
    """Which masks rewards read, a key of `rl.learner.mask_targets.MASKS`: sampled, released (for the profile
    `videoseg_o3`) or tracked, which encodes every frame of each video, takes a step of SAM 2's memory for every frame
    of each trajectory, and stores as many masks."""
    max_batch_tokens: int = 16384
    """Most padded tokens of one micro-batch. Groups that are larger cost one more forward, to be judged beforehand."""
    learner_ranks: int = 1
    """Processes that learn, each with a GPU of its own: they share out the groups of a step and the optimizer's state
    (ZeRO stage 1), with the same result as one. All but the first are Ray actors."""
    workers: int = 1
    """EpisodeRunner workers."""
    weight_transport: str = "object_store"
    """How weights get to them, one of `rl.rollout.weight_transport.TRANSPORTS`: object_store, or nixl (from GPU to GPU,
    at the cost of a busy core in each process)."""
    max_attempts: int = 3
    """Times an episode is tried when its worker fails, before it ends as an error."""
    min_group: int = 2
    """Fewest sound trajectories with which a group is trained on."""
    node_cache_gb: float = 0.0
    """Shared memory (/dev/shm) of each node that holds resized frames, so that the learner need not decode what a
    worker beside it has decoded, in GiB. Only large frames are worth it."""
    max_rollout_seconds: float = 7200.0
    """Wall-clock limit of a step's rollout (each round of it, where `refill` asks for more); what is unfinished then
    ends as errors, and groups do with the members they have."""
    save_every: int = 10
    """Steps between checkpoints."""
    eval_every: int = 0
    """Steps between looks at the held-out tasks of `eval`; 0 never looks."""
    shuffle_rewards: bool = False
    """Control: give each trajectory the reward of a random sibling, from which nothing can be learnt."""


@dataclass(frozen=True)
class EvalConfig:
    num_tasks: int = 64
    """Held-out tasks, the first ones in file order; 0 takes all. `rl.evaluate --benchmark` has its --limit instead."""
    temperature: float = 0.0
    """Sampling temperature; 0 is greedy."""
    blind: bool = True
    """Also evaluate the policy with its eyes shut."""
    blind_zooms: bool = False
    """Control: show grey frames wherever the policy looks closer; what is lost is what looks are worth."""
    num_bootstrap: int = 1000
    """Resamples behind each interval."""
    workers: int = 0
    """Ray workers that segment, each with its own sampler and policy; 0 segments in this process."""


@dataclass(frozen=True)
class RunConfig:
    run_dir: str = "runs/demo"
    """Folder for everything this run writes."""
    seed: int = 0
    """Seed of data order, initial weights and sampling."""
    data: DataConfig = field(default_factory=DataConfig)
    """Data sets."""
    env: EnvConfig = field(default_factory=EnvConfig)
    """What the policy is shown, and limits."""
    policy: PolicyConfig = field(default_factory=PolicyConfig)
    """The model."""
    sampler: SamplerConfig = field(default_factory=SamplerConfig)
    """The engine that acts."""
    cold_start: ColdStartConfig = field(default_factory=ColdStartConfig)
    """Supervised stages."""
    grpo: GrpoConfig = field(default_factory=GrpoConfig)
    """Reinforcement learning."""
    rewards: dict[str, float] = field(default_factory=lambda: dict(PROFILES["default"]))
    """Reward name (a key of `rewards.REWARDS`) to weight; or the name of a profile, a key of `configs.profiles`."""
    eval: EvalConfig = field(default_factory=EvalConfig)
    """Held-out evaluation."""
