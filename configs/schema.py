"""All settings of a run: frozen dataclasses, with a sentence under each field. Standard library only.

`configs.load` reads a YAML file into one `RunConfig`. Sizes in pixels are areas (width x height). The settings of the
model, `policy`, are in `configs.policy_schema`.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from configs.policy_schema import PolicyConfig
from configs.profiles import PROFILES


@dataclass(frozen=True)
class SourceConfig:
    """One of several data sets that a run trains on."""

    dataset: str = "mevis"
    """Layout of the data, a key of `cot_data.datasets.DATASETS`."""
    root: str = ""
    """Folder of the data set or of its split, as the file of its loader describes."""
    weight: float = 1.0
    """Its tasks are sampled with probability weight / sum of weights, whatever its size."""
    traces: str = ""
    """VTS-CoT JSON file for the cold start; empty: traces are written from the gold masks."""
    only: str = ""
    """RL JSON file of the VideoSEG-O3 release; only its expressions are trained on. Empty: all of them."""


@dataclass(frozen=True)
class DataConfig:
    """The data sets of a run."""

    dataset: str = "mevis"
    """Layout of the data, a key of `cot_data.datasets.DATASETS`."""
    train_root: str = "runs/demo/data/train"
    """Folder with the training split."""
    eval_root: str = "runs/demo/data/heldout"
    """Folder with the held-out split."""
    traces: str = ""
    """VTS-CoT JSON file for the cold start; empty: traces are written from the gold masks of `train_root`."""
    train: tuple[SourceConfig, ...] = ()
    """Several data sets to train on, sampled by weight, in place of `train_root` and `traces`; empty: `train_root`."""


@dataclass(frozen=True)
class EnvConfig:
    """The observations of an episode, and its limits."""

    prompt: str = "full"
    """Prompt wording: a key of `env.prompts.PROMPTS` (`full` for pretrained models, `brief` for tiny ones), or a YAML
    file with texts of your own (docs/prompts.md). The cold start teaches it. GRPO, evaluation and prediction use the
    prompt in the checkpoint folder, `prompt.yaml`, where there is one."""
    tools: tuple[str, ...] = ("zoom", "key_frame")
    """Tools that the policy may use, keys of `env.tools.TOOLS`; their frames are shown in this order."""
    strip_frames: int = 10
    """Low-resolution frames of the first observation, evenly spaced over the video."""
    detail_frames: int = 5
    """High-resolution frames of the first observation, evenly spaced over the video."""
    zoom_frames: int = 5
    """Most frames that the tool `zoom` shows of an interval."""
    frame_rounding: str = "nearest"
    """Rounding of evenly spaced frames: `nearest`, or `down` as in VideoSEG-O3, which shows a video of one frame more
    than asked for whole. With `grpo.masks: released` the mask reward reads the large frames that are shown."""
    bounds: str = "refuse"
    """Numbers of an action outside of the video: `refuse` ends the episode as malformed, `clamp` moves them to the
    nearest frame and cuts fractions off, as VideoSEG-O3 does."""
    size_factor: int = 32
    """Sides of frames are multiples of this, the vision patch size times the merge size."""
    strip_pixels: int = 32 * 28 * 28
    """Most pixels of a low-resolution frame of the first observation."""
    detail_pixels: int = 128 * 28 * 28
    """Most pixels of a high-resolution frame of the first observation."""
    zoom_pixels: int = 32 * 28 * 28
    """Most pixels of a frame that the tool `zoom` shows."""
    key_pixels: int = 256 * 28 * 28
    """Most pixels of the key frame that the tool `key_frame` shows."""
    max_turns: int = 3
    """Most turns of one episode; a select in the last one ends it."""
    max_action_tokens: int = 512
    """Most tokens the policy may write in one turn."""
    max_context_tokens: int = 8192
    """Most tokens of a whole trajectory, observations included."""
    max_seconds: float = 600.0
    """Wall-clock limit of one episode in seconds, reading its frames included. An episode that takes longer ends as an
    error and is not scored."""
    max_turn_seconds: float = 300.0
    """Wall-clock limit in seconds for the sampler to write one turn; the episode then ends as an error."""
    blind: bool = False
    """Show grey frames in place of the video: the baseline that only reads the query."""


@dataclass(frozen=True)
class SamplerConfig:
    """The engine that writes the policy's text, and the limits of its workers."""

    kind: str = "vllm"
    """Engine, a key of `policy.engines.SAMPLERS`: `vllm` or `hf`."""
    dtype: str = "float32"
    """Precision of the engine."""
    memory_gb: float = 1.0
    """Size of the engine's key-value cache on CPU, in GiB."""
    gpu_memory_fraction: float = 0.45
    """Fraction of the GPU's memory that the engine may take."""
    gpus_per_worker: float = 0.0
    """GPUs that Ray reserves for each rollout worker. A fraction shares one GPU with the learner."""
    max_sequences: int = 64
    """Most episodes that the engine decodes at once."""
    stall_seconds: float = 600.0
    """A worker that has not answered for so many seconds is replaced. Normally it answers twice a second."""
    load_seconds: float = 3600.0
    """The same limit while a worker waits for its resources and loads its engine."""
    transfer_seconds: float = 300.0
    """A worker that has not received new weights within so many seconds is replaced."""


@dataclass(frozen=True)
class StageConfig:
    """One stage of the cold start."""

    kind: str = "dialogue"
    """A key of `rl.sft.stages.STAGES`: `masks` (SAM 2 learns masks from captions), `vision` (the objects in each cell
    of a frame), `captions` (the objects in one frame) or `dialogue` (VTS-CoT traces)."""
    steps: int = 1000
    """Optimizer steps."""
    epochs: int = 0
    """Passes over the traces of `captions` and `dialogue`, in place of `steps`. 0: `steps` applies."""
    batch_size: int = 8
    """Sequences per step; frames per step for `masks` and `vision`."""
    text_only_traces: int = 0
    """Further traces per step of `dialogue` without frames, which train it to conclude the answer from the text."""
    lr: float = 1.5e-3
    """Highest learning rate, reached after the first 5 % of the steps."""
    lr_schedule: str = "plateau"
    """Course of the learning rate in `captions` and `dialogue` after that: `plateau` (constant until the last 35 % of
    the steps, then down to 0) or `cosine` (down to 0 along a cosine)."""
    mask_coef: float = 1.0
    """Weight of the mask loss at every [SEG]: `bce_coef` x BCE + `dice_coef` x dice + 0.1 x the presence loss."""
    bce_coef: float = 1.0
    """Weight of BCE in the mask loss."""
    dice_coef: float = 0.5
    """Weight of dice in the mask loss."""
    mask_points: int = 0
    """Points of each mask where BCE and dice are computed, most of them where it is uncertain. 0: all pixels."""
    align_coef: float = 0.0
    """Weight of a loss that pulls the projected [SEG] states towards the caption prompts of the `masks` stage."""
    decision_weight: float = 1.0
    """Loss weight of tokens that state a decision (what a zoom shows, interval, key frame, name). Others have 1."""
    freeze_sam: bool = False
    """Freeze SAM 2 in this stage."""
    sam_parts: tuple[str, ...] = ()
    """Modules of SAM 2 that are trained in `captions` and `dialogue`, such as `sam_mask_decoder`. Empty: all."""


@dataclass(frozen=True)
class ColdStartConfig:
    """The supervised stages before GRPO."""

    stages: tuple[StageConfig, ...] = (StageConfig(),)
    """Stages, in order."""
    zoom_share: float = 0.45
    """Probability that a trace of env.prompt `brief` zooms before it answers, where zooming helps; elsewhere a third of
    it. Below 0.5 a greedy policy hardly ever zooms, which leaves more for GRPO to learn."""
    mask_frames: int = 2
    """Frames with a mask loss at each [SEG], its key frame included."""
    weight_decay: float = 0.05
    """AdamW weight decay."""
    betas: tuple[float, ...] = (0.9, 0.98)
    """AdamW decay rates of the means of the gradient and of its square, in `captions` and `dialogue`."""
    max_batch_tokens: int = 0
    """Most padded tokens of one micro-batch. Their gradients add up to that of the step's batch. 0: one micro-batch."""
    max_failed_share: float = 0.05
    """Largest share of the samples of a stage that may be left out because their frames or masks cannot be read. Above
    it the run ends."""
    max_skipped_updates: int = 5
    """Most optimizer steps in a row that may be skipped because a loss or a gradient is not finite. One more ends the
    run."""
    log_every: int = 10
    """Steps between two records of metrics."""
    save_every: int = 500
    """Steps between two checkpoints of a stage."""


@dataclass(frozen=True)
class GrpoConfig:
    """Reinforcement learning: rollouts, loss, masks, workers and limits."""

    steps: int = 1000
    """Passes of the training loop: a rollout, its scores, and `updates` optimizer steps."""
    tasks_per_step: int = 8
    """Tasks per step."""
    group_size: int = 8
    """Trajectories per task."""
    max_oversampling: int = 1
    """Most groups that a step samples, as a multiple of `tasks_per_step`. Above 1, groups with equal rewards are
    replaced by further ones."""
    rollout_ahead: int = 0
    """Rollouts that run while an earlier one is still trained on. 0 is on-policy. 1 keeps sampler and learner busy at
    the same time, with weights one step old, which the truncated importance weight corrects."""
    lr: float = 1e-4
    """Learning rate."""
    warmup_steps: int = 5
    """Steps over which the learning rate rises linearly to `lr`."""
    lr_decays: bool = False
    """Decrease the learning rate linearly over the run, to 0 after the last step."""
    weight_decay: float = 0.0
    """AdamW weight decay."""
    max_grad_norm: float = 1.0
    """The gradient's norm is clipped to this."""
    updates: int = 1
    """Optimizer steps per rollout, at one learning rate. Above 1, later updates are off-policy and clipping takes
    effect."""
    loss: str = "dapo"
    """Policy loss, a key of `rl.learner.policy_loss.LOSSES`: grpo, bnpo, dr_grpo, dapo, gspo or cispo."""
    clip_low: float = 0.2
    """Lower clip range of the policy ratio."""
    clip_high: float = 0.2
    """Upper clip range of the policy ratio. For `cispo` it is the cap of the ratio itself (ScaleRL recommends 5)."""
    least_entropy: float = 0.0
    """In nats. Tokens of lower entropy, and without a mask, get no policy gradient, only that of the KL. 0: all tokens
    get it."""
    kl_coef: float = 0.01
    """Weight of the KL to the reference policy. At 0 no reference is kept."""
    kl_form: str = "k3"
    """Estimator of the KL, a key of `rl.learner.policy_loss.KLS`: k1, k2 or k3."""
    scale_by_std: bool = True
    """Divide advantages by the standard deviation of the group's rewards."""
    truncate_weight: float = 2.0
    """Cap of the importance weight, the probability ratio of learner and sampler. 0 disables the correction."""
    truncate_level: str = "token"
    """Unit that has an importance weight, a key of `rl.learner.importance_sampling.LEVELS`: each token, or the whole
    sequence."""
    calibration: str = "loglik"
    """Form of the mask term at [SEG], a key of `rl.learner.calibration.CALIBRATIONS`: loglik, iou or none."""
    calibration_coef: float = 1.0
    """Weight w of the mask term in log p_text + w * log p_mask."""
    calibration_threshold: float = 0.0
    """Logit above which a pixel of a rollout's mask counts as set (0.5 in the released code)."""
    calibration_clip: float = 0.0
    """Bound on how far w * log p_mask may move the log-ratio, in either direction, from the second update of a rollout
    on. 0: no bound."""
    calibration_detach: bool = False
    """Count the mask term in the policy ratio without a gradient. At the first update this equals `none`."""
    mask_coef: float = 0.2
    """Weight of the auxiliary mask loss, a mean over all decoded masks (see `rl/learner/masks.py`)."""
    mask_least_iou: float = 0.0
    """Mean J that the masks of an answer need to be trained towards gold. 0: every [SEG] is, as in the released
    recipe."""
    freeze_sam: bool = False
    """Freeze SAM 2. Otherwise its mask decoder and prompt encoder are trained, as in the released recipe."""
    mask_frames: int = 4
    """Evenly spaced frames on which the last [SEG] is decoded for rewards and mask loss, beside its key frame. With
    `masks: released` it is decoded on the large frames of the first observation, if there are any."""
    masks: str = "sampled"
    """Masks that rewards read, a key of `rl.learner.mask_targets.MASKS`: sampled, released (for the profile
    `videoseg_o3`) or tracked. `tracked` encodes and tracks every frame of the video for each trajectory, and stores as
    many masks."""
    max_batch_tokens: int = 16384
    """Most padded tokens of one micro-batch. A larger group needs one more forward pass before its update."""
    learner_ranks: int = 1
    """Learner processes, each with its own GPU. They divide the groups of a step and the optimizer's state (ZeRO stage
    1) among them, with the same result as one process. All but the first are Ray actors."""
    workers: int = 1
    """Rollout workers."""
    weight_transport: str = "object_store"
    """Transport of new weights to the workers, a key of `rl.rollout.weight_transport.TRANSPORTS`: object_store, or nixl
    (from GPU to GPU, which keeps one core of each process busy)."""
    max_attempts: int = 3
    """Attempts at an episode whose worker fails, before it ends as an error."""
    min_group: int = 2
    """Fewest valid trajectories of a group that is trained on."""
    node_cache_gb: float = 0.0
    """Shared memory (/dev/shm) of each node for resized frames, in GiB, so that the learner need not decode what a
    worker on its node has decoded. It helps with large frames only."""
    max_rollout_seconds: float = 7200.0
    """Wall-clock limit of a step's rollout in seconds, and of each further round that `max_oversampling` allows.
    Unfinished episodes then end as errors, and groups are trained on without them."""
    max_failed_share: float = 0.5
    """Largest share of a step's trajectories that may fail (frames or masks that cannot be read, time limits, lost
    workers). Above it the run ends; `--resume` tries them again."""
    max_skipped_updates: int = 5
    """Most optimizer steps in a row that may be skipped because a loss or a gradient is not finite. One more ends the
    run."""
    save_every: int = 10
    """Steps between two checkpoints."""
    eval_every: int = 0
    """Steps between two evaluations on the held-out tasks of `eval`; 0: none."""
    shuffle_rewards: bool = False
    """Control: give each trajectory the reward of a random sibling. Nothing can be learnt from such rewards."""


@dataclass(frozen=True)
class EvalConfig:
    """Evaluation on held-out tasks."""

    num_tasks: int = 64
    """Number of held-out tasks, the first in file order; 0: all. `rl.evaluate --benchmark` uses --limit instead."""
    temperature: float = 0.0
    """Sampling temperature; 0 is greedy."""
    blind: bool = True
    """Also evaluate the policy on grey frames, as a baseline that only reads the query."""
    blind_zooms: bool = False
    """Control: replace the frames that tools show by grey. The difference tells how much zooming adds."""
    malformed: str = "empty"
    """Masks of an episode whose last text is malformed: `empty`, or `decode` as in VideoSEG-O3, which decodes its last
    [SEG] on the key frame that the text names, else on the last selected one, else on the middle large frame."""
    num_bootstrap: int = 1000
    """Bootstrap resamples of each confidence interval."""
    workers: int = 0
    """Ray workers that segment, each with its own sampler and policy; 0: this process segments."""
    failed: str = "exclude"
    """Rule for tasks that failed (a time limit, a frame or a worker; the model's own mistakes are answers): `exclude`
    leaves them out of the means, `empty` counts them as empty masks. Benchmarks count them as empty, as their protocols
    do with missing predictions. A task whose gold masks cannot be read is always left out."""
    max_failed_share: float = 0.05
    """Largest share of tasks that may fail. Above it evaluation writes its results and ends with exit status 1."""


@dataclass(frozen=True)
class RunConfig:
    """All settings of a run."""

    run_dir: str = "runs/demo"
    """Folder for all output of the run."""
    seed: int = 0
    """Seed of data order, initial weights and sampling."""
    data: DataConfig = field(default_factory=DataConfig)
    """Data sets."""
    env: EnvConfig = field(default_factory=EnvConfig)
    """Observations and limits of an episode."""
    policy: PolicyConfig = field(default_factory=PolicyConfig)
    """The model."""
    sampler: SamplerConfig = field(default_factory=SamplerConfig)
    """The engine that writes the policy's text."""
    cold_start: ColdStartConfig = field(default_factory=ColdStartConfig)
    """Supervised stages."""
    grpo: GrpoConfig = field(default_factory=GrpoConfig)
    """Reinforcement learning."""
    rewards: dict[str, float] = field(default_factory=lambda: dict(PROFILES["default"]))
    """Reward name (a key of `rewards.REWARDS`) to weight, or the name of a profile in `configs.profiles`."""
    eval: EvalConfig = field(default_factory=EvalConfig)
    """Held-out evaluation."""
