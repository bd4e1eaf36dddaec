// What the page does itself. ipywidgets leaves the curves without an alternative text and sliders without names: they are given
// those seen beside them. The curves' line goes where the figures are; a style sheet that says so would have the whole page's
// styles gathered anew. And the view says how high it is: the browser then lays out each new one by itself, and nothing around it.
const begin = () => {
  const root = this.closest('.pmc2-explore');
  if (!root) return requestAnimationFrame(begin);
  const fit = () => {
    const view = root.querySelector('.pmc2-view > .widget-html-content'), last = view?.lastElementChild;
    const height = last ? `${last.offsetTop + last.offsetHeight}px` : '';
    if (last?.offsetHeight && view.style.height !== height) view.style.cssText = `contain: size layout style; height: ${height}`;
  };
  const look = () => {
    for (const image of root.querySelectorAll('img:not([alt])')) image.alt = 'accuracy, SSIM and bytes over strength';
    for (const slider of root.querySelectorAll('[role=slider]:not([aria-label])')) {
      const label = slider.closest('.widget-inline-hbox')?.querySelector('label');
      if (label) slider.ariaLabel = label.textContent;
    }
    const numbers = root.querySelector('.pmc2-numbers'), curves = root.querySelector('.pmc2-curves');
    if (numbers && curves) curves.style.setProperty('--strength', numbers.dataset.strength);
    fit();
  };
  new MutationObserver(look).observe(root, {childList: true, subtree: true});
  new ResizeObserver(fit).observe(this.closest('.widget-html'));
  look();
};
begin();
