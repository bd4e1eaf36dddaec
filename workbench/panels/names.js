// ipywidgets leaves the curves without an alternative text and sliders without names: they are given those seen beside them.
const begin = () => {
  const root = this.closest('.pmc2-explore');
  if (!root) return requestAnimationFrame(begin);
  const name = () => {
    for (const image of root.querySelectorAll('img:not([alt])')) image.alt = 'accuracy, SSIM and bytes over strength';
    for (const slider of root.querySelectorAll('[role=slider]:not([aria-label])')) {
      const label = slider.closest('.widget-inline-hbox')?.querySelector('label');
      if (label) slider.ariaLabel = label.textContent;
    }
  };
  new MutationObserver(name).observe(root, {childList: true, subtree: true});
  name();
};
begin();
