// ipywidgets leaves the curves without an alternative text and sliders without names: they are given those seen beside them.
// And the curves' line goes where the figures are; a style sheet that says so would have the whole page's styles gathered anew.
const begin = () => {
  const root = this.closest('.pmc2-explore');
  if (!root) return requestAnimationFrame(begin);
  const look = () => {
    for (const image of root.querySelectorAll('img:not([alt])')) image.alt = 'accuracy, SSIM and bytes over strength';
    for (const slider of root.querySelectorAll('[role=slider]:not([aria-label])')) {
      const label = slider.closest('.widget-inline-hbox')?.querySelector('label');
      if (label) slider.ariaLabel = label.textContent;
    }
    const numbers = root.querySelector('.pmc2-numbers'), curves = root.querySelector('.pmc2-curves');
    if (numbers && curves) curves.style.setProperty('--strength', numbers.dataset.strength);
  };
  new MutationObserver(look).observe(root, {childList: true, subtree: true});
  look();
};
begin();
