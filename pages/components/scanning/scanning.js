// Bar-code scanners type fast and end with Enter: the focus then goes on to the next field, as Tab would.

const QUIET_MS = 400; // longer than any pause within one scan
const LATE_MS = 200;
const isTyped = (event) => event.key.length === 1 && !event.ctrlKey && !event.metaKey && !event.altKey;

export default function mount({ data, parentElement }) {
  const inputs = () => data.keys.map((key) => document.querySelector(`.st-key-${CSS.escape(key)} input`)).filter(Boolean);
  const nothingFocused = () => !document.activeElement || document.activeElement === document.body;
  parentElement.leave?.();

  // A scan that began before this form was there has lost its first digits: the rest of it is left out, too. The form
  // takes keys once nobody has typed for a moment, or somebody points at something, and keeps its first field in focus
  // until somebody does something.
  let isReady = parentElement.chain === data.keys[0];
  let lastKey = performance.now();
  let lastTick = lastKey;
  const takeKeys = () => {
    isReady = true;
    parentElement.chain = data.keys[0];
  };
  const begin = setInterval(() => {
    const now = performance.now();
    if (now - lastTick > LATE_MS) lastKey = now; // the browser was busy: keys may wait that were typed meanwhile
    lastTick = now;
    if (now - lastKey < QUIET_MS || !inputs().length) return;
    takeKeys();
    if (nothingFocused() || document.activeElement.tagName === "BUTTON") inputs()[0].focus();
  }, 50);
  if (isReady) clearInterval(begin);

  const onKey = (event) => {
    if (!isReady) {
      lastKey = performance.now();
      event.preventDefault();
      event.stopImmediatePropagation();
      return;
    }
    clearInterval(begin);
    if (isTyped(event) && nothingFocused()) inputs().find((input) => !input.value)?.focus();
    if (event.key !== "Enter" || event.isComposing) return;
    const chain = inputs();
    const at = chain.indexOf(event.target);
    if (at < 0) return;
    // Streamlit takes the value on Enter by itself; the focus goes on after that.
    setTimeout(() => {
      const next = chain[at + 1] ?? document.querySelector(`.st-key-${CSS.escape(data.after)} button`);
      next?.focus();
      next?.select?.();
    }, 0);
  };
  const onPointer = () => {
    clearInterval(begin);
    takeKeys();
  };
  document.addEventListener("keydown", onKey, true);
  document.addEventListener("pointerdown", onPointer, true);
  parentElement.leave = () => {
    clearInterval(begin);
    document.removeEventListener("keydown", onKey, true);
    document.removeEventListener("pointerdown", onPointer, true);
  };
  return parentElement.leave;
}
