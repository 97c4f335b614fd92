"""Shared prompts beside the calls they replace: logits, gradients, TRL's loss, and the same adapter for a seed."""

import copy
import inspect
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import GenerationConfig, Qwen2ForCausalLM, set_seed
from trl import GRPOTrainer

from tests.model.qwens import padded, small, stir, with_lora
from utils.data.questions import load_questions
from utils.model import prompt_sharing
from utils.model.decoding import decode
from utils.model.policy import LORA_TARGETS, add_lora, load_policy, render_prompt
from utils.model.profiles import get_profile
from utils.model.prompt_sharing import completion_logps, share_prompts, without_logits
from utils.training import trainer as trainers
from utils.training.grpo import build_trainer, run_training

PROFILE = get_profile("tiny").replace(
    steps=3, prompts_per_step=3, group_size=4, micro_batch=12, max_completion_tokens=40, save_every=1_000
)
QUESTIONS = load_questions("tiny", "train")[:40]
END = 2


@pytest.fixture
def model():
    """The embedded model under an adapter that does something: B is zero in a fresh one, and with it A's gradient."""
    return stir(add_lora(load_policy(PROFILE), 0))


@pytest.fixture(scope="module")
def prompts():
    """Five prompts of uneven length, padded on the left."""
    policy = load_policy(PROFILE)
    texts = [render_prompt(policy, q.question) for q in QUESTIONS[:5]]
    return policy.tokenizer(texts, return_tensors="pt", padding=True, add_special_tokens=False)


def batch(prompts, which, lengths):
    """A loss batch as TRL lays it out: prompts padded on the left, random completions on the right."""
    which, width = torch.tensor(which), max(lengths)
    completions = torch.randint(3, 600, (len(which), width), generator=torch.Generator().manual_seed(1))
    there = (torch.arange(width) < torch.tensor(lengths)[:, None]).long()
    return {
        "input_ids": torch.cat([prompts["input_ids"][which], completions * there], 1),
        "attention_mask": torch.cat([prompts["attention_mask"][which], there], 1),
        "logits_to_keep": width + 1,
        "use_cache": False,
    }


def logits_and_gradients(model, inputs, lengths):
    """Logits that predict a completion token, and the gradients of a loss in which each of these counts differently."""
    model.zero_grad()
    logits = model(**inputs).logits[:, :-1]
    completion = inputs["input_ids"][:, -logits.shape[1] :]
    there = torch.arange(logits.shape[1]) < torch.tensor(lengths)[:, None]
    chosen = logits.log_softmax(-1).gather(-1, completion[..., None])[..., 0][there]
    (chosen * torch.linspace(-1, 1, len(chosen))).sum().backward()
    gradients = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    return logits[there].detach(), gradients


def assert_gradients_agree(found, expected):
    assert found.keys() == expected.keys()
    for name, gradient in expected.items():
        assert gradient.abs().max() > 0, name
        assert torch.allclose(found[name], gradient, rtol=1e-3, atol=1e-4 * gradient.abs().max()), name


BATCHES = {
    "groups in order": ([0, 0, 0, 1, 1, 1, 2, 2, 2], [7, 12, 3, 5, 12, 9, 12, 1, 4]),
    "shuffled": ([2, 0, 1, 0, 2, 1, 1, 0, 2], [7, 12, 3, 5, 12, 9, 12, 1, 4]),
    "unequal groups": ([3, 3, 0, 3, 1, 3, 3], [4, 9, 9, 2, 6, 5, 8]),
    "one token each": ([0, 1, 0, 1], [1, 1, 1, 1]),
    "one row": ([4], [10]),
    "no prompt twice": ([0, 1, 2, 3, 4], [6, 2, 8, 8, 1]),
}


@pytest.mark.parametrize("case", BATCHES)
def test_logits_and_gradients_are_those_of_the_plain_forward(model, prompts, case):
    which, lengths = BATCHES[case]
    inputs = batch(prompts, which, lengths)
    expected, gradients = logits_and_gradients(model, inputs, lengths)
    plain = model.forward
    share_prompts(model)
    assert model.forward is not plain
    found, shared = logits_and_gradients(model, inputs, lengths)
    assert found.shape == expected.shape and torch.allclose(found, expected, atol=1e-4)
    assert (found.log_softmax(-1) - expected.log_softmax(-1)).abs().max() < 1e-4
    assert len(gradients) == 56, "A and B of 7 matrices in each of 4 layers"
    assert_gradients_agree(shared, gradients)


def test_in_double_precision_they_agree_to_the_tenth_digit(model, prompts):
    """So what is left in single precision is rounding, not another formula."""
    model = model.double()
    which, lengths = BATCHES["shuffled"]
    inputs = batch(prompts, which, lengths)
    expected, gradients = logits_and_gradients(model, inputs, lengths)
    share_prompts(model)
    found, shared = logits_and_gradients(model, inputs, lengths)
    assert torch.allclose(found, expected, rtol=0, atol=1e-10)
    for name, gradient in gradients.items():
        assert torch.allclose(shared[name], gradient, rtol=0, atol=1e-10 * gradient.abs().max()), name


def test_prompts_that_differ_only_in_their_padding_are_kept_apart(model):
    """The padding token may stand in a prompt; then the mask alone tells two prompts apart."""
    ids = torch.tensor([[0, 0, 5, 9], [0, 0, 5, 9], [0, 0, 5, 9]])
    mask = torch.tensor([[0, 0, 1, 1], [1, 1, 1, 1], [0, 0, 1, 1]])
    inputs = batch({"input_ids": ids, "attention_mask": mask}, [0, 1, 2], [3, 3, 3])
    expected, _ = logits_and_gradients(model, inputs, [3, 3, 3])
    share_prompts(model)
    found, _ = logits_and_gradients(model, inputs, [3, 3, 3])
    assert torch.allclose(found, expected, atol=1e-4)


def test_each_prompt_is_read_once(model, prompts):
    read = []
    model.get_base_model().model.embed_tokens.register_forward_hook(lambda _, args, out: read.append(args[0].shape))
    which, lengths = [2, 0, 1, 0, 2, 1], [7, 12, 3, 5, 12, 9]
    share_prompts(model)
    model(**batch(prompts, which, lengths))
    assert read == [(3, prompts["input_ids"].shape[1] + 7 + 12)], "three rows; the longest holds two completions"


def test_other_calls_of_forward_are_left_alone(model, prompts):
    ids = prompts["input_ids"]
    expected = model(input_ids=ids, attention_mask=prompts["attention_mask"]).logits
    share_prompts(model)
    assert torch.equal(model(input_ids=ids, attention_mask=prompts["attention_mask"]).logits, expected)
    assert model(input_ids=ids, labels=ids).loss > 0


def test_a_model_that_does_not_suit_is_left_alone():
    model = small(rope_scaling={"rope_type": "linear", "factor": 2.0})
    share_prompts(model)
    assert "generate" not in vars(model) and "forward" not in vars(model)


# -------------------------------------------------------------------------------------------- generate


def greedily(model, prompts):
    """The plain `generate`, which takes `do_sample` from the model's own configuration where the call's is False."""
    model.generation_config.do_sample = False
    greedy = how(do_sample=False, temperature=None, top_p=None, top_k=None)
    return greedy, model.generate(**prompts, generation_config=greedy)


def how(**changes):
    """The configuration that TRL 1.2.0 makes."""
    settings = dict(max_new_tokens=40, do_sample=True, temperature=1.0, top_p=1.0, top_k=0, min_p=None)
    ids = dict(pad_token_id=0, bos_token_id=None, eos_token_id=END, repetition_penalty=1.0, cache_implementation=None)
    return GenerationConfig(**(settings | ids | changes), disable_compile=True)


@pytest.mark.parametrize("which", [[0, 0, 1, 1, 2, 2], [2, 0, 1, 0, 2, 0, 4], [3]])
def test_generate_gives_what_model_generate_gives(model, prompts, which):
    rows = {name: tensor[which] for name, tensor in prompts.items()}
    greedy, expected = greedily(model, rows)
    share_prompts(model)
    assert torch.equal(model.generate(**rows, generation_config=greedy), expected)


def test_generate_answers_row_for_row_when_it_samples(prompts):
    """A shuffled batch gets completions of its own rows' prompts: probable after these, not after other ones."""
    model = load_policy(PROFILE).model
    which = [2, 0, 1, 0, 2, 1, 4, 4, 3, 3]
    rows = {name: tensor[which] for name, tensor in prompts.items()}
    share_prompts(model)
    set_seed(0)
    output = model.generate(**rows, generation_config=how(temperature=0.3))
    start = rows["input_ids"].shape[1]
    assert torch.equal(output[:, :start], rows["input_ids"])

    def likely(prompt_of):
        ids = torch.cat([prompts["input_ids"][prompt_of], output[:, start:]], 1)
        mask = torch.cat([prompts["attention_mask"][prompt_of], (output[:, start:] != 0).long()], 1)
        kept = {"logits_to_keep": output.shape[1] - start + 1, "use_cache": False}
        with torch.no_grad():
            logits = model(input_ids=ids, attention_mask=mask, **kept).logits[:, :-1]
        chosen = logits.log_softmax(-1).gather(-1, output[:, start:, None])[..., 0]
        return (chosen * mask[:, start:]).sum(1)

    others = [(i + 1) % 5 for i in which]
    assert likely(which).sum() > likely(others).sum() + 100


def test_generate_samples_as_the_loop_does(model, prompts):
    """The order of rows inside the loop is that of the call, whatever order the distinct prompts are found in."""
    which = torch.tensor([1, 0, 1, 0])
    set_seed(3)
    expected = decode(model, **prompts, prompt_of=which, cap=40, temperature=1.0, end_token=END)
    share_prompts(model)
    set_seed(3)
    rows = {name: tensor[which] for name, tensor in prompts.items()}
    output = model.generate(**rows, generation_config=how())[:, prompts["input_ids"].shape[1] :]
    assert [row[: len(e)] for row, e in zip(output.tolist(), expected, strict=True)] == expected


@pytest.mark.parametrize(
    "changes", [{"top_k": 50}, {"top_p": 0.9}, {"repetition_penalty": 1.1}, {"num_beams": 4, "do_sample": False}]
)
def test_another_way_of_decoding_is_refused(model, prompts, changes):
    share_prompts(model)
    with pytest.raises(ValueError, match="greedy or samples plainly"):
        model.generate(**prompts, generation_config=how(**changes))


# ------------------------------------------------------------------------------------ log-probabilities without logits


def trls(model, inputs, kept, temperature):
    """TRL's own log-probabilities and entropies, by the model's plain forward."""
    compute = inspect.unwrap(GRPOTrainer._get_per_token_logps_and_entropies)
    trainer = SimpleNamespace(temperature=temperature, model_kwarg_keys={"logits_to_keep"})
    ids, mask = inputs["input_ids"], inputs["attention_mask"]
    return compute(trainer, model, ids, mask, kept, compute_entropy=True)


def completed(compute, model, inputs, temperature):
    """Log-probabilities and entropies of the completions' tokens, and gradients as `logits_and_gradients` has them."""
    model.zero_grad()
    kept = inputs["logits_to_keep"] - 1
    logps, entropies = compute(model, inputs, kept, temperature)
    there = inputs["attention_mask"][:, -kept:].bool()
    (logps[there].float() * torch.linspace(-1, 1, int(there.sum()))).sum().backward()
    gradients = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    assert not entropies.requires_grad
    return logps.detach(), entropies, gradients, there


def ours(model, inputs, kept, temperature):
    return completion_logps(model, inputs["input_ids"], inputs["attention_mask"], kept, temperature)


def off(found, expected):
    """How far gradients lie from those expected, as a share of these."""
    assert found.keys() == expected.keys() and all(gradient.abs().max() > 0 for gradient in expected.values())
    square = sum((found[name].float() - g.float()).square().sum() for name, g in expected.items())
    return (square / sum(g.float().square().sum() for g in expected.values())).sqrt().item()


@pytest.mark.parametrize("at_once", [1, 7, 256])
@pytest.mark.parametrize("temperature", [1.0, 0.6])
@pytest.mark.parametrize("case", BATCHES)
def test_log_probabilities_entropies_and_gradients_are_trls(model, prompts, monkeypatch, case, temperature, at_once):
    monkeypatch.setattr(prompt_sharing, "AT_ONCE", at_once)
    inputs = batch(prompts, *BATCHES[case])
    logps, entropies, gradients, there = completed(trls, model, inputs, temperature)
    share_prompts(model)  # as the trainer does
    found, spreads, shared, _ = completed(ours, model, inputs, temperature)
    assert torch.allclose(found[there], logps[there], atol=1e-4)
    assert torch.allclose(spreads[there], entropies[there], atol=1e-4)
    assert found[~there].abs().sum() == spreads[~there].abs().sum() == 0, "0 behind the ends"
    assert len(gradients) == 56 and off(shared, gradients) < 1e-4


@pytest.mark.parametrize("tied", [True, False])
def test_of_other_shapes_too(tied):
    model = with_lora(small(0, num_attention_heads=4, num_key_value_heads=2, tie_word_embeddings=tied))
    ids, mask = padded([5], [1, 7, 8, 9, 10, 11], [30, 4])
    inputs = batch({"input_ids": ids, "attention_mask": mask}, [1, 0, 2, 1, 1], [4, 9, 1, 7, 9])
    inputs["input_ids"] %= 97
    logps, entropies, gradients, there = completed(trls, model, inputs, 1.5)
    found, spreads, shared, _ = completed(ours, model, inputs, 1.5)
    assert torch.allclose(found[there], logps[there], atol=1e-4) and off(shared, gradients) < 1e-4
    assert torch.allclose(spreads[there], entropies[there], atol=1e-4)


def test_in_bfloat16_they_are_closer_to_the_exact_ones_than_trls(prompts):
    """TRL rounds logits and log-probabilities to eight bits, too."""
    policy = load_policy(PROFILE.replace(dtype="bfloat16"))
    model = stir(add_lora(policy, 0))
    inputs = batch(prompts, *BATCHES["groups in order"])
    exact, spreads, gradients, there = completed(trls, copy.deepcopy(model).float(), inputs, 0.6)
    (theirs, their_spreads, their_gradients, _), (found, our_spreads, our_gradients, _) = (
        completed(compute, model, inputs, 0.6) for compute in (trls, ours)
    )

    def error(found, exact):
        return (found[there].float() - exact[there]).square().mean().sqrt()

    assert error(found, exact) < error(theirs, exact)
    assert error(our_spreads, spreads) < 1.5 * error(their_spreads, spreads), "what the layers round weighs most here"
    assert off(our_gradients, gradients) < 2 * off(their_gradients, gradients) < 0.2, "their adapters are in float32"


class Widest(TorchDispatchMode):
    """The most rows of a table that is as wide as the vocabulary."""

    def __init__(self, vocabulary):
        super().__init__()
        self.vocabulary, self.rows = vocabulary, 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        output = function(*args, **(kwargs or {}))
        for tensor in output if isinstance(output, tuple) else (output,):
            wide = torch.is_tensor(tensor) and tensor.dim() and tensor.shape[-1] == self.vocabulary
            if wide and function._schema.returns[0].alias_info is None:  # not the output matrix, transposed
                self.rows = max(self.rows, tensor.numel() // self.vocabulary)
        return output


def test_only_the_logits_of_a_few_tokens_lie_in_memory_together(model, prompts, monkeypatch):
    monkeypatch.setattr(prompt_sharing, "AT_ONCE", 5)
    inputs = batch(prompts, *BATCHES["groups in order"])
    rows = {}
    for compute in (trls, ours):
        with Widest(model.config.vocab_size) as widest:
            completed(compute, model, inputs, 0.6)
        rows[compute] = widest.rows
    assert rows == {trls: 9 * 13, ours: 5}


def test_a_model_whose_output_matrix_is_trained_keeps_its_logits(monkeypatch):
    """Its gradient would be lost, whether it is trained itself, as part of the embedding, or by an adapter."""
    assert not without_logits(with_lora(small())), "a narrow vocabulary"
    monkeypatch.setattr(prompt_sharing, "WIDE", 31)
    assert without_logits(with_lora(small())) and without_logits(with_lora(small(tie_word_embeddings=True)))
    assert not without_logits(with_lora(small(rope_scaling={"rope_type": "linear", "factor": 2.0}))), "does not suit"
    for tied in (True, False):
        assert not without_logits(small(tie_word_embeddings=tied))
    assert not without_logits(with_lora(small(), target_modules=["lm_head"]))
    assert not without_logits(with_lora(small(), target_modules=["lm_head", "q_proj"]).requires_grad_(False))


@pytest.mark.slow
@pytest.mark.parametrize("settings", [{}, {"beta": 0.04}], ids=str)
def test_a_training_without_logits_is_the_same_training(tmp_path, monkeypatch, settings):
    logs, texts, calls = {}, {}, []
    for wide in (prompt_sharing.WIDE, 100):
        monkeypatch.setattr(prompt_sharing, "WIDE", wide)
        compute = completion_logps if wide == 100 else None
        monkeypatch.setattr(trainers, "completion_logps", lambda *args, f=compute: (calls.append(1), f(*args))[1])
        profile = PROFILE.replace(micro_batch=6, temperature=0.8)
        trainer = build_trainer(load_policy(profile), QUESTIONS, tmp_path / str(wide), seed=3, settings=settings)
        history = run_training(trainer).history
        names = ("loss", "grad_norm", "reward", *(["entropy"] if settings else []))  # of beta = 0 a mean of fewer
        logs[wide] = [[line[name] for name in names] for line in history]
        texts[wide] = (tmp_path / str(wide) / "rollouts.jsonl").read_text()
    with_logits, without = logs.values()
    assert len(calls) == 3 * (2 + len(settings)), "both halves of each step, and the reference"
    assert len(set(texts.values())) == 1, "else the losses of other texts would be compared"
    assert len(without) == 3 and all(norm > 0.01 for _, norm, *_ in without)
    for found, expected in zip(without, with_logits, strict=True):
        assert found == pytest.approx(expected, rel=1e-4, abs=1e-5)


@pytest.mark.slow
def test_a_training_of_all_weights_keeps_its_logits(tmp_path, monkeypatch):
    monkeypatch.setattr(prompt_sharing, "WIDE", 100)
    monkeypatch.setattr(trainers, "completion_logps", None)
    policy = load_policy(PROFILE.replace(steps=1, micro_batch=12))
    before = policy.model.get_output_embeddings().weight.clone()
    trainer = build_trainer(policy, QUESTIONS, tmp_path, seed=3, full_weights=True, settings={"learning_rate": 1e-4})
    trainer.train()
    assert not torch.equal(policy.model.get_output_embeddings().weight, before)


# ------------------------------------------------------------------------------------ TRL and training


def losses(trainer, inputs):
    """TRL's loss of one batch, and the gradients it leaves."""
    trainer.model.zero_grad()
    loss = trainer.compute_loss(trainer.model, inputs)
    loss.backward()
    return loss.item(), {n: p.grad.clone() for n, p in trainer.model.named_parameters() if p.grad is not None}


@pytest.mark.slow
@pytest.mark.parametrize("settings", [{}, {"beta": 0.04}, {"loss_type": "dr_grpo", "scale_rewards": "none"}], ids=str)
def test_the_loss_of_a_real_batch_is_trls(tmp_path, settings):
    plain_forward = Qwen2ForCausalLM.forward
    trainer = build_trainer(load_policy(PROFILE), QUESTIONS, tmp_path, seed=3, settings=settings)
    stir(trainer.model)
    trainer.current_gradient_accumulation_steps = 1  # what train() would set
    trainer.model.train()
    rows = next(iter(trainer.get_train_dataloader()))
    inputs = trainer._generate_and_score_completions(rows)
    inputs = training_order(inputs)
    assert inputs["advantages"].abs().max() > 0.5, "a batch without differences in reward tests nothing"
    shared, shared_gradients = losses(trainer, inputs)
    del trainer.model.forward, trainer.model.generate
    assert trainer.model.get_base_model().forward.__func__ is plain_forward
    plain, plain_gradients = losses(trainer, inputs)
    assert shared == pytest.approx(plain, abs=1e-5)
    assert len(plain_gradients) == 56
    assert_gradients_agree(shared_gradients, plain_gradients)


def training_order(inputs):
    """The rows shuffled, as TRL shuffles them before it splits them into micro-batches."""
    order = torch.randperm(len(inputs["advantages"]), generator=torch.Generator().manual_seed(0))
    return {k: v[order] if torch.is_tensor(v) and v.dim() else v for k, v in inputs.items()}


@pytest.mark.slow
def test_the_trainer_uses_both(tmp_path, monkeypatch):
    """Else the tests above would guard functions that nobody calls."""
    called = []
    functions = {name: getattr(prompt_sharing, name) for name in ("_generate", "_forward")}

    def watch(name):
        return lambda *args: (called.append(name), functions[name](*args))[1]

    for name in functions:
        monkeypatch.setattr(prompt_sharing, name, watch(name))
    trainer = build_trainer(load_policy(PROFILE.replace(steps=1)), QUESTIONS, tmp_path, seed=3)
    trainer.train()
    assert called == ["_generate", "_forward"]


@pytest.mark.slow
def test_a_seed_gives_the_same_adapter_bit_for_bit(tmp_path):
    """On the same machine with the same number of threads, and not because the seed were ignored."""
    adapters = []
    for run, seed in enumerate((3, 3, 4)):
        torch.rand(run + 1)  # what was drawn before must not matter
        trainer = build_trainer(load_policy(PROFILE), QUESTIONS, tmp_path / str(run), seed=seed)
        adapters.append(load_file(run_training(trainer).adapter / "adapter_model.safetensors"))
    first, again, other = adapters
    assert first.keys() == again.keys() and all(torch.equal(first[name], again[name]) for name in first)
    assert not all(torch.equal(first[name], other[name]) for name in first)


@pytest.mark.slow
def test_full_weights_get_their_gradients_too(prompts):
    """Without an adapter the embedding is trained as well, and prompts reach it along both paths."""
    which, lengths = BATCHES["unequal groups"]
    model, inputs = load_policy(PROFILE).model, batch(prompts, which, lengths)
    _, gradients = logits_and_gradients(model, inputs, lengths)
    share_prompts(model)
    _, shared = logits_and_gradients(model, inputs, lengths)
    assert "model.embed_tokens.weight" in gradients
    assert_gradients_agree(shared, gradients)


def test_an_adapter_on_some_matrices_only(prompts):
    model = with_lora(load_policy(PROFILE).model, target_modules=LORA_TARGETS[:2])
    greedy, expected = greedily(model, prompts)
    share_prompts(model)
    assert torch.equal(model.generate(**prompts, generation_config=greedy), expected)
